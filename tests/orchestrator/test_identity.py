"""Who gives an answer: whatever can change it changes the identity, whatever only places the work does not."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.serving import identity
from orchestrator.serving.spec import ServingSpec
from tests.support.tiny_model import make_tiny_model, write_tokenizer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "model")


def deployed(model: Path, gpus: int = 1, **serving: Any) -> str:
    spec = ServingSpec.model_validate(serving)
    return identity.deciding(identity.of_deployment(str(model), spec, gpus, progress=lambda _: None))


def engine(**options: Any) -> dict[str, Any]:
    return {"engine_kwargs": options}


DECIDES: list[dict[str, Any]] = [
    {"dtype": "float16"},
    {"yarn_factor": 4.0},
    {"hf_overrides": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}},
    {"hf_overrides": {"max_position_embeddings": 1024}},
    {"reasoning_parser": "qwen3"},
    engine(kv_cache_dtype="fp8"),
    engine(quantization="fp8"),
    engine(quantization="awq"),
    engine(revision="abc"),
    engine(tokenizer="org/other"),
    engine(tokenizer_revision="abc"),
    engine(chat_template="{{ messages }}"),
    engine(generation_config="vllm"),
    engine(override_generation_config={"top_k": 3}),
    engine(speculative_config={"method": "ngram", "num_speculative_tokens": 3}),
    engine(seed=7),
    engine(load_format="dummy"),
    engine(model_impl="transformers"),
    engine(default_mm_loras={"image": "org/lora"}),
    engine(mm_processor_kwargs={"max_pixels": 10}),
    engine(attention_backend="FLASHINFER"),
    engine(an_option_of_a_later_version=True),
]
PLACES: list[dict[str, Any]] = [
    {"tensor_parallel_size": 2},
    {"pipeline_parallel_size": 2},
    {"replicas": 4},
    {"max_replicas": 4},
    {"parallelism": "auto"},
    {"max_num_seqs": 7},
    {"max_num_batched_tokens": 4096},
    {"gpu_memory_utilization": 0.5},
    {"enable_chunked_prefill": False},
    {"enforce_eager": True},
    {"startup_timeout": 9},
    engine(enable_expert_parallel=True),
    engine(data_parallel_size=2),
    engine(enable_prefix_caching=False),
    engine(distributed_executor_backend="ray"),
    engine(disable_log_stats=True),
    engine(max_parallel_loading_workers=2),
]


@pytest.mark.parametrize("change", DECIDES, ids=json.dumps)
def test_what_decides_an_answer_makes_another_identity(change: dict[str, Any], model: Path) -> None:
    assert deployed(model, **change) != deployed(model)


@pytest.mark.parametrize("change", PLACES, ids=json.dumps)
def test_where_the_work_is_done_makes_none(change: dict[str, Any], model: Path) -> None:
    assert deployed(model, **change) == deployed(model)


def test_a_cpu_that_computes_in_another_precision_is_another_identity(model: Path) -> None:
    assert deployed(model, gpus=0) != deployed(model, gpus=1)


def other_weights(model: Path) -> None:
    make_tiny_model(model, seed=1)


def other_weights_of_the_same_age(model: Path) -> None:
    """As a copy with `cp -p` or rsync leaves them: name, size and time of change are those of before."""
    path = model / "model.safetensors"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def edited(name: str) -> Callable[[Path], None]:
    def edit(model: Path) -> None:
        with (model / name).open("a", encoding="utf-8") as file:
            file.write("\n")

    return edit


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        (other_weights, True),
        (other_weights_of_the_same_age, True),
        (edited("generation_config.json"), True),
        (edited("config.json"), True),
        (edited("chat_template.jinja"), True),
        (edited("tokenizer_config.json"), True),
        (edited("README.md"), False),
        (edited(".gitattributes"), False),
        (edited("LICENSE"), False),
    ],
)
def test_weights_are_known_by_their_content(change: Callable[[Path], None], is_another: bool, model: Path) -> None:
    before = deployed(model)
    change(model)
    assert (deployed(model) != before) is is_another


def test_the_same_weights_elsewhere_are_the_same_model(model: Path, tmp_path: Path) -> None:
    before = deployed(model)
    assert deployed(model.rename(tmp_path / "moved")) == before


def test_a_file_is_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(model)
    read: list[Path] = []
    monkeypatch.setattr(identity, "_sha256", read.append)
    deployed(model)
    assert not read


def test_a_template_is_known_by_its_content_not_its_path(model: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages }}")
    first = deployed(model, **engine(chat_template=str(template)))
    template.write_text("{{ messages[0] }}")
    assert deployed(model, **engine(chat_template=str(template))) != first


def test_a_draft_model_is_known_by_its_weights(model: Path, tmp_path: Path) -> None:
    draft = make_tiny_model(tmp_path / "draft")
    speculative = engine(speculative_config={"model": str(draft), "num_speculative_tokens": 2})
    first = deployed(model, **speculative)
    make_tiny_model(draft, seed=3)
    assert deployed(model, **speculative) != first


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05}),
        ({"generation_config": "vllm"}, {}),
        ({"override_generation_config": {"top_k": 1}}, {"temperature": 0.6, "top_k": 1, "repetition_penalty": 1.05}),
        ({"generation_config": "elsewhere"}, {"top_p": 0.5}),
    ],
)
def test_the_sampling_is_told_as_vllm_takes_it(
    options: dict[str, Any], expected: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, values in (
        ("model", {"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.05, "do_sample": True, "top_p": None}),
        ("elsewhere", {"top_p": 0.5}),
    ):
        Path(folder).mkdir()
        Path(folder, "generation_config.json").write_text(json.dumps(values))
    assert identity.generation_defaults("model", options) == expected


def test_a_model_without_defaults_has_none_and_one_that_is_not_here_is_unknown(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "model")
    assert identity.generation_defaults(str(tmp_path / "model"), {}) == {}
    assert identity.generation_defaults("org/nowhere-to-be-found", {}) is None


Pages = dict[str, tuple[int, bytes]]


@contextmanager
def serving(pages: Pages) -> Iterator[Endpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = pages.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Endpoint(f"http://127.0.0.1:{server.server_port}/v1", "m")
        server.shutdown()


VERSION = (200, b'{"version":"0.29.0"}')
MODELS = (200, b'{"data":[{"id":"m","root":"/models/a"},{"id":"n","root":"/models/b"}]}')


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ({"/version": VERSION, "/v1/models": MODELS}, {"version": "0.29.0", "root": "/models/a"}),
        ({"/v1/models": MODELS}, {"version": "", "root": "/models/a"}),
        ({"/version": VERSION}, {"version": "0.29.0"}),
        ({}, {"version": ""}),
        ({"/version": (503, b"")}, {"version": None}),
        ({"/version": (200, b"<html>")}, {"version": ""}),
        ({"/version": (200, b'["0.29"]'), "/v1/models": (200, b'[{"id":"m"}]')}, {"version": ""}),
    ],
)
def test_a_server_is_known_by_what_it_tells(pages: Pages, told: dict[str, str | None]) -> None:
    with serving(pages) as endpoint:
        found = identity.of_server(endpoint)
        assert found and found["server"] == {"base_url": endpoint.base_url, **told}


def test_a_page_that_fails_once_makes_no_other_server() -> None:
    pages: Pages = {"/version": VERSION}
    with serving(pages) as endpoint:
        before = identity.of_server(endpoint)
        pages["/version"] = (500, b"")
        assert identity.of_server(endpoint, before) == before
        pages["/version"] = (200, b'{"version":"0.30.0"}')
        after = identity.of_server(endpoint, before)
    assert before and after and identity.deciding(before) != identity.deciding(after)


def test_a_server_that_is_gone_is_nobody() -> None:
    with serving({}) as endpoint:
        pass
    assert identity.of_server(endpoint) is None
