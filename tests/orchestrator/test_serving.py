"""Serving: what is started for a spec, and a real vLLM on CPU behind a real Ray Serve that wants its key."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tiny_model import make_tiny_model

from orchestrator import serving
from orchestrator.cluster import Cluster, connect
from orchestrator.endpoint import Endpoint
from orchestrator.engine_log import meaningful_lines
from orchestrator.errors import EndpointDown, SpecError
from orchestrator.spec import ServingSpec

SPEC = ServingSpec(max_num_seqs=8, startup_timeout=200)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this test's own, started because there is none, gone afterwards because nobody else uses it."""
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("home")
    patch.setenv("KOSEN_HOME", str(home))
    patch.setenv("RAY_AUTH_MODE", "token")  # restored afterwards
    patch.setenv("RAY_AUTH_TOKEN_PATH", "")
    patch.delenv("RAY_ADDRESS", raising=False)
    with connect() as cluster:
        yield cluster
    patch.undo()
    assert not (home / "clusters" / "local" / "state.json").exists()
    assert not Path(str(cluster.state and cluster.state["temp_dir"])).exists()


@pytest.fixture(scope="module")
def endpoint(model: str, cluster: Cluster) -> Endpoint:
    return serving.deploy(model, SPEC, cluster, progress=print)


def ask(endpoint: Endpoint, headers: dict[str, str]) -> dict[str, object]:
    body = {"model": endpoint.model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    headers = headers | {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint.base_url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict[str, object] = json.load(response)
    return answer


def test_a_model_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no model folder /no/such"):
        serving.check_model("/no/such/model")
    with pytest.raises(SpecError, match="has no config"):
        serving.check_model(str(tmp_path))
    serving.check_model("organisation/model-1.5")


def test_the_application_changes_its_name_with_what_it_serves(model: str) -> None:
    name = serving.app_name(model, SPEC, gpus=0)
    assert name == serving.app_name(model, SPEC.model_copy(update={"startup_timeout": 5.0}), gpus=0)
    assert name != serving.app_name(model, SPEC.model_copy(update={"max_num_seqs": 9}), gpus=0)
    os.utime(Path(model) / "config.json", (1, 1))  # trained again, same path
    assert name != serving.app_name(model, SPEC, gpus=0)


def test_engine_options_are_the_specs_with_yarn_and_engine_kwargs_last(model: str) -> None:
    spec = ServingSpec(yarn_factor=4, tensor_parallel_size=2, engine_kwargs={"enforce_eager": True, "block_size": 32})
    options = serving.engine_kwargs(model, spec, gpus=2)
    rope = options["hf_overrides"]["rope_parameters"]
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("yarn", 4, 512)
    assert (options["tensor_parallel_size"], options["enforce_eager"], options["block_size"]) == (2, True, 32)
    assert serving.engine_kwargs(model, ServingSpec(), gpus=0)["dtype"] == "float32"


def test_capacity_follows_replicas_and_sequences() -> None:
    assert serving.capacity(ServingSpec(max_num_seqs=100, replicas=2), gpus=8) == 250
    assert serving.capacity(ServingSpec(engine_kwargs={"max_num_seqs": 16}), gpus=0) == 20


def test_an_error_log_is_cut_down_to_what_says_something() -> None:
    log = '\n  File "a.py", line 1\n\x1b[31mINFO ready\x1b[0m\nValueError: no such tensor\nValueError: no such tensor\n'
    assert meaningful_lines(log) == ["ValueError: no such tensor"]


@pytest.mark.timeout(400)
def test_the_endpoint_answers_to_its_key_only(endpoint: Endpoint) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(endpoint, headers)
        assert refused.value.code == 401
    assert ask(endpoint, endpoint.headers())["model"] == endpoint.model
    with urllib.request.urlopen(endpoint.base_url.removesuffix("/v1") + "/health", timeout=10) as health:
        assert health.status == 200


def test_the_same_configuration_is_reused_at_once(endpoint: Endpoint, model: str, cluster: Cluster) -> None:
    lines: list[str] = []
    started = time.monotonic()
    assert serving.deploy(model, SPEC, cluster, progress=lines.append) == endpoint
    assert time.monotonic() - started < 3
    assert "running deployment" in lines[0]


@pytest.mark.timeout(400)
def test_a_killed_engine_comes_back(endpoint: Endpoint, cluster: Cluster) -> None:
    engine = next(process for process in psutil.process_iter() if _is_engine_of(process, cluster))
    engine.kill()
    deadline = time.monotonic() + 150
    while True:
        try:
            ask(endpoint, endpoint.headers())
            if not engine.is_running():
                break
        except OSError:
            assert time.monotonic() < deadline, "the engine did not come back"
        time.sleep(0.5)


def _is_engine_of(process: psutil.Process, cluster: Cluster) -> bool:
    assert cluster.state is not None
    try:
        mine = process.environ().get("RAY_TMPDIR") == cluster.state["temp_dir"]
        return mine and "EngineCore" in " ".join([process.name(), *process.cmdline()])
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


@pytest.mark.timeout(400)
def test_an_engine_that_cannot_start_says_why_and_is_removed(cluster: Cluster, model: str) -> None:
    too_long = SPEC.model_copy(update={"max_model_len": 4096})
    with pytest.raises(EndpointDown, match="max_model_len"):
        serving.deploy(model, too_long, cluster, progress=print)
    assert serving._app_status(serving.app_name(model, too_long, 0)) in (None, "DELETING")


def test_release_deletes_what_nobody_else_uses(endpoint: Endpoint, cluster: Cluster) -> None:
    serving.release(endpoint, cluster)
    assert serving._app_status(str(endpoint.serve_app)) in (None, "DELETING")
