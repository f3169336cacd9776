"""What a spec needs of the hub is fetched, and found again without a network: from a server that answers as the hub."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from cluster.files import REPOSITORY
from jobs import prefetch
from tests.support.harness import run
from tests.support.scripted_hub import served_as_hub

CONFS = [path for path in sorted((REPOSITORY / "conf").glob("**/*.yaml")) if "sites" not in path.parts]
COMMIT = "1" * 40
README = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
---
"""
MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"w" * 100, "pytorch_model.bin": b"no"}


def rows(count: int) -> bytes:
    texts = [json.dumps({"question": f"{number}+1=?", "answer": str(number + 1)}) for number in range(count)]
    return "\n".join(texts).encode()


class Hub(http.server.ThreadingHTTPServer):
    """Repositories, `models/<name>` and `datasets/<name>`, each with its files, and what was asked for of them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        sums = {"README.md": README.encode(), "main/train.jsonl": rows(3), "main/test.jsonl": rows(2)}
        models = {f"models/us/{name}": MODEL for name in ("small", "value", "other")}
        self.repositories: dict[str, dict[str, bytes]] = {**models, "datasets/us/sums": sums}
        self.fetched: set[str] = set()
        self.tokens: set[str | None] = set()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            self._answer("/".join(parts[1:4]), parts[4:])
        else:
            repository = parts if parts[0] == "datasets" else ["models", *parts]
            self._file("/".join(repository[:3]), "/".join(repository[5:]))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.strip("/").split("/")
        self._answer("/".join(parts[1:4]), parts[4:], json.loads(body)["paths"])

    def _answer(self, repository: str, call: list[str], paths: list[str] | None = None) -> None:
        files = self.server.repositories.get(repository)
        if files is None:
            self._send(b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository Not Found"}, 404)
        elif call and call[0] in ("tree", "paths-info"):
            under = "/".join(call[2:])
            found = [name for name in files if (name in paths if paths is not None else name.startswith(under))]
            entries = [
                {"type": "file", "path": name, "size": len(files[name]), "oid": _tag(files[name])} for name in found
            ]
            self._send(json.dumps(entries).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            about = {"id": repository.partition("/")[2], "sha": COMMIT, "private": False, "tags": []}
            self._send(json.dumps(about | {"siblings": siblings, "downloads": 0, "likes": 0}).encode())

    def _file(self, repository: str, name: str) -> None:
        content = self.server.repositories.get(repository, {}).get(name)
        if content is None:
            self._send(b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, 404)
            return
        if self.command == "GET":
            self.server.fetched.add(f"{repository}/{name}")
        self._send(content, {"ETag": f'"{_tag(content)}"', "X-Repo-Commit": COMMIT})

    def _send(self, content: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def _tag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as server, served_as_hub(server, "hf_read", tmp_path, monkeypatch):
        yield server


READ = """
import sys
from huggingface_hub import snapshot_download
from orchestrator.data.source import read_rows
for name in sys.argv[1:]:
    print(len(list(read_rows("us/sums:main", split=name, columns=None))) if name in ("train", "test") else
          snapshot_download(name, ignore_patterns="*"))  # as vLLM looks for a folder
"""


def without_network(*names: str) -> list[str]:
    """The rows of splits, the folders of models, as a job on a compute node finds them."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", READ, *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_training_finds_all_of_it_without_a_network(hub: Hub, tmp_path: Path) -> None:
    spec = tmp_path / "ppo.yaml"
    spec.write_text("model: us/small\ntrain: us/sums:main\nval: us/sums:main\ncritic: {model: us/value}\n")
    done = run("jobs.prefetch", "--config", str(spec))
    assert done.returncode == 0, done.stderr
    assert "us/sums:main, train: 3 rows" in done.stdout and "us/sums:main, test: 2 rows" in done.stdout
    assert not [name for name in hub.fetched if name.endswith(".bin")] and "Bearer hf_read" in hub.tokens
    small, value, train, test = without_network("us/small", "us/value", "train", "test")
    assert Path(small, "model.safetensors").is_file() and Path(value, "model.safetensors").is_file()
    assert (train, test) == ("3", "2")


def test_a_pipeline_gets_what_its_steps_do_not_make(hub: Hub, tmp_path: Path) -> None:
    command = ["--config", "conf/pipelines/gsm8k.yaml", "values.model=us/small", "values.source=us/sums:main"]
    done = run("jobs.prefetch", *command)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4  # the tokenizer, two splits, the model
    [folder, *counts] = without_network("us/small", "train", "test")
    assert Path(folder, "model.safetensors").is_file() and counts == ["3", "2"]


def test_a_name_that_the_hub_does_not_have_is_said(hub: Hub) -> None:
    done = run("jobs.prefetch", "model=us/smal", "train=us/sums:main")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cannot fetch the model us/smal" in done.stderr and "HF_TOKEN" in done.stderr


def needs(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert prefetch.main([*arguments, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {" ".join(name.split()): state for name, _, state in (line.rpartition(": ") for line in lines)}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "conf/hle.yaml"], {"model Qwen/Qwen3-32B", "data cais/hle, test"}),
        (["model=a/b", "provider=openai"], {"data cais/hle, test"}),
        (["model=a/b", "judge=c/d", "judge_provider=vllm"], {"model a/b", "model c/d", "data cais/hle, test"}),
        (["model=a/b", "judge=c/d"], {"model a/b", "data cais/hle, test"}),
        (["model=a/b", "train=c/d:e", "val=c/d:e"], {"model a/b", "data c/d:e, train", "data c/d:e, test"}),
        (["model=a/b", "train=c/d", "algorithm=grpo", "critic.model=e/f"], {"model a/b", "data c/d, train"}),
        (["--job", "ppo", "model=a/b", "train=c/d", "train_split=x"], {"model a/b", "data c/d, x"}),
        (["--job=prepare", "sft", "out=x", "source=c/d", "tokenizer=a/b"], {"tokenizer a/b", "data c/d, train"}),
        (["--config", "conf/pipelines/demo-rl.yaml"], set()),
        (["parts=[train]", "train.model=a/b", "train.data=c/d"], {"model a/b", "data c/d, train"}),
        (["parts=[train]", "train.model=70b", "serve.model=a/b"], set()),
        (["--config", "conf/bench.yaml", "serve.model=a/b"], {"model a/b"}),
        (
            ["--config", "conf/pipelines/models.yaml", "models=[a/b,c/d]"],
            {"model a/b", "model c/d", "data cais/hle, test"},
        ),
    ],
)  # fmt: skip
def test_what_is_needed(
    arguments: list[str], expected: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = needs(capsys, *arguments)
    assert found.keys() == expected and set(found.values()) <= {"on the hub"}


@pytest.mark.parametrize("config", CONFS, ids=lambda path: path.stem)
def test_every_shipped_spec_is_told_by_its_keys(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    needs(capsys, "--config", str(config))


def test_local_paths_are_left_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    found = needs(capsys, f"model={tmp_path}/model", f"train={tmp_path}/none.jsonl")
    assert found.pop(f"model {tmp_path}/model") == "here already"
    [(name, state)] = found.items()
    assert name == f"data {tmp_path}/none.jsonl" and "not here yet" in state


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "conf/none.yaml"], "there is no spec file conf/none.yaml"),
        (["--job", "merge", "run=x"], "Expected one of evaluate"),
        (["--job", "prepare", "out=x"], "Expected first one of gsm8k"),
        (["model=a/b", "train=c/d", "rolout.n=4"], "unknown key rolout"),
        (["model=a/b", "datset=c/d"], "Did you mean dataset"),
        (["run=x", "steps.a={job: sft, arguments: ['run={here}', 'lr=0']}"], "step a: "),
        (["run=x", "steps.a={job: stf, arguments: ['run={here}']}"], "there is no job stf"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(arguments: list[str], said: str) -> None:
    done: Any = run("jobs.prefetch", *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in done.stderr.strip().splitlines()[-1]
