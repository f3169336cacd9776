"""A training is one wandb run, however often it stops, with the real wandb and a server that speaks its protocol."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.training.folder import TrainingFolder, loss_curve, read_journal
from tests.support.harness import run, start, wait_for
from tests.support.tiny_model import make_tiny_model, write_sums
from tests.support.wandb_files import history, records

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 30  # six epochs of five, so that a signal comes before the end; a checkpoint every fifth step
KEY = "deadbeef" * 5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wandb")
    make_tiny_model(folder / "model")
    write_sums(folder / "train.jsonl", 40)
    return folder


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)


def options(base: Path, folder: Path, *more: str) -> list[str]:
    data = [f"model={base / 'model'}", f"train={base / 'train.jsonl'}", f"run={folder}", "workers=1"]
    size = ["batch_size=8", "micro_batch_size=8", "max_length=64", "epochs=6", "lr=3e-3", "save_every=5"]
    return [*data, *size, "wandb.project=sums", *more]


def interrupt(number: signal.Signals, after: int, *arguments: str) -> None:
    """A job that ends by a signal once it has done `after` steps."""
    folder = Path(next(text.removeprefix("run=") for text in arguments if text.startswith("run=")))
    job = start("jobs.sft", *arguments)
    wait_for(lambda: after in steps_done(folder) or job.poll() is not None, 300, f"step {after}")
    assert job.poll() is None, job.communicate()
    os.kill(job.pid, number)
    job.communicate(timeout=200)


def steps_done(folder: Path) -> list[int]:
    return [line["step"] for line in read_journal(TrainingFolder(folder)) if line["event"] == "step"]


def assert_nothing_secret(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


class Server(http.server.ThreadingHTTPServer):
    """As much of wandb's server as its client needs to make runs, to resume them, and to send their history."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.history: dict[str, list[dict[str, Any]]] = {}

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if stream := re.fullmatch(r"/files/.*/(.*)/file_stream", path):
            if sent := body.get("files", {}).get("wandb-history.jsonl"):
                self.history[stream[1]][sent["offset"] :] = map(json.loads, sent["content"])
            return {}
        variables = body.get("variables", {})
        match body.get("operationName"):
            case "RunResumeStatus":
                known = variables["name"] in self.history
                return {"data": {"model": PROJECT | {"bucket": self._run(variables["name"]) if known else None}}}
            case "UpsertBucket":
                inserted = variables["name"] not in self.history
                run = self._run(variables["name"]) | {"project": PROJECT}
                return {"data": {"upsertBucket": {"bucket": run, "inserted": inserted}}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables["files"]]
                return {"data": {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def _run(self, name: str) -> dict[str, Any]:
        lines = self.history.setdefault(name, [])
        none: dict[str, Any] = {"description": None, "notes": None, "sweepName": None, "tags": []}
        counts = {"historyLineCount": len(lines), "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]"}
        state = {"config": "{}", "wandbConfig": '{"t": 1}', "summaryMetrics": json.dumps(lines[-1] if lines else {})}
        tail = {"historyTail": json.dumps([json.dumps(line) for line in lines[-1:]])}
        return {"id": name, "name": name, "displayName": name} | none | counts | state | tail

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Its client closes connections without a word."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def losses(self, name: str) -> dict[int, float]:
        return {line["_step"]: line["train/loss"] for line in self.history[name] if "train/loss" in line}


PROJECT = {"id": "p", "name": "sums", "entity": {"id": "e", "name": "us"}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_json = self.path == "/graphql" or self.path.endswith("file_stream")
        answer = json.dumps(self.server.answer(self.path, json.loads(body) if is_json else {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def served(server: Server) -> Iterator[Server]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with server:
        yield server
        server.shutdown()


def sync(folder: Path) -> None:
    """What `remind` tells the user to give."""
    runs = sorted(map(str, (folder / "wandb").glob("offline-run-*")))
    command = [sys.executable, "-m", "wandb", "sync", *runs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_offline_all_attempts_write_one_run(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base / "offline"
    arguments = options(base, folder, "wandb.mode=offline")
    interrupt(signal.SIGTERM, 3, *arguments)
    done = run("jobs.sft", *arguments, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"wandb sync {folder}/wandb/offline-run-*" in done.stderr.replace("\n", "")
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    [name] = {record.run.run_id for file in files for record in records(file) if record.HasField("run")}
    assert name == (folder / "wandb_run_id").read_text().strip()
    first, second = (history(file, "train/loss") for file in files)
    losses = loss_curve(TrainingFolder(folder), "train/loss")
    assert not first.keys() & second.keys()  # `wandb sync` would renumber the second's
    assert first | second == pytest.approx(losses) and sorted(losses) == list(range(1, STEPS + 1))
    assert_nothing_secret(folder)
    with served(Server()) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        sync(folder)
    assert server.losses(name) == pytest.approx(losses)


def test_online_a_server_that_goes_away_costs_a_warning(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base / "online"
    with served(Server()) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        interrupt(signal.SIGTERM, 3, *options(base, folder))
    [name] = server.history
    saved = max(server.losses(name))
    assert saved >= 3
    done = run("jobs.sft", *options(base, folder), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    log = (folder / "logs/rank-0.log").read_text()
    assert f"writing offline below {folder}/wandb" in log.replace("\n", "")
    assert max(server.losses(name)) == saved
    with served(Server(server.server_port)) as again:
        again.history = server.history
        sync(folder)
        done = run("jobs.sft", *options(base, folder, "epochs=7"), timeout=400)  # resumes, online
    assert done.returncode == 0, done.stdout + done.stderr
    losses = loss_curve(TrainingFolder(folder), "train/loss")
    assert again.history.keys() == {name} and again.losses(name) == pytest.approx(losses)
    assert sorted(losses) == list(range(1, STEPS + 6))
    assert_nothing_secret(folder)


def test_a_job_that_is_killed_goes_on_in_its_run(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base / "killed"
    with served(Server()) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        interrupt(signal.SIGKILL, 7, *options(base, folder))
        done = run("jobs.sft", *options(base, folder), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    [name] = server.history
    losses = loss_curve(TrainingFolder(folder), "train/loss")
    assert sorted(losses) == list(range(1, STEPS + 1)) and server.losses(name) == pytest.approx(losses, abs=1e-5)


def test_the_next_job_sends_what_one_killed_at_its_end_had_not(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base / "end"
    with served(Server()) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        first = run("jobs.sft", *options(base, folder), timeout=400)
        [name] = server.history
        (folder / "metrics.json").unlink()  # written last
        del server.history[name][2:]
        done = run("jobs.sft", *options(base, folder), timeout=400)
    assert first.returncode == done.returncode == 0, done.stdout + done.stderr
    assert "all 30 steps are done" in done.stderr and len(list((folder / "logs").glob("attempt-*"))) == 1
    assert server.losses(name) == pytest.approx(loss_curve(TrainingFolder(folder), "train/loss"))
    assert_nothing_secret(folder)


def test_reinforcement_learning_is_one_run_too(base: Path) -> None:
    folder = base / "ppo"
    rows = [{"question": f"{number}+1=?", "answer": str(number + 1)} for number in range(8)]
    (base / "rl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [f"model={base / 'model'}", f"train={base / 'rl.jsonl'}", f"run={folder}", "algorithm=grpo", "rollout.n=2"]
    size = ["reward=exact_match", "batch_size=4", "rollout.max_prompt_length=48", "rollout.max_response_length=4"]
    done = run("jobs.ppo", *data, *size, "wandb.project=sums", "wandb.mode=offline", timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = (folder / "wandb").glob("offline-run-*/*.wandb")
    [name] = {record.run.run_id for record in records(file) if record.HasField("run")}
    assert name == (folder / "wandb_run_id").read_text().strip()
    assert history(file, "critic/score/mean") == pytest.approx(loss_curve(TrainingFolder(folder), "critic/score/mean"))
    assert_nothing_secret(folder)
