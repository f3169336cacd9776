"""Taking up a predecessor's jobs: what is refused for good costs no time, what is refused for now is asked again."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.folder.ledger import Ledger, RayJob
from cluster.head import resubmit
from cluster.state import ClusterState, write_token

ANSWERS: dict[str, list[int]] = {}  # the statuses of a job's submissions, the last one for ever


class JobApi(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answers = ANSWERS[body["submission_id"]]
        self.answer(answers.pop(0) if answers[1:] else answers[0])

    def do_GET(self) -> None:
        self.answer(200 if self.path.endswith("/heard") else 404)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterState]:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    write_token("c", "secret")
    with HTTPServer(("127.0.0.1", 0), JobApi) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield ClusterState("c", "ready", "slurm", "1", [], "", url, {}, "", "")
        server.shutdown()


def taken_up(state: ClusterState, folder: Path, pauses: list[float]) -> dict[str, list[str]]:
    ledger = Ledger(folder / "ledger.jsonl", "1")
    for name in ANSWERS:
        ledger.note(RayJob(name, "true", "RUNNING"))
    return resubmit.resubmit(state, ledger, "/", pauses.append)


def test_a_job_that_is_refused_for_good_is_asked_once(state: ClusterState, tmp_path: Path) -> None:
    pauses: list[float] = []
    ANSWERS.clear()
    ANSWERS.update(bad=[400], good=[500, 503, 200])
    assert taken_up(state, tmp_path, pauses) == {"resumed": ["good"], "refused": ["bad"]}
    assert len(pauses) == 2


def test_each_job_has_its_own_time(state: ClusterState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resubmit, "AGENT_SECONDS", 0.2)
    ANSWERS.clear()
    ANSWERS.update(never=[500], later=[500, 200])
    assert taken_up(state, tmp_path, []) == {"resumed": ["later"], "refused": ["never"]}


def test_a_job_whose_first_answer_was_lost_counts_as_taken_up(state: ClusterState, tmp_path: Path) -> None:
    ANSWERS.clear()
    ANSWERS.update(heard=[400])
    assert taken_up(state, tmp_path, []) == {"resumed": ["heard"], "refused": []}
