"""Ray Jobs through `make submit` and its siblings: the job's own exit code, its log, stopping and resuming."""

import re
from pathlib import Path

import pytest

from tests.support.harness import numbered, records, run, start, wait_for, write_exam
from tests.support.scripted_server import ScriptedServer

pytestmark = pytest.mark.usefixtures("cluster")


def submit(server: ScriptedServer, exam: Path, folder: Path) -> list[str]:
    job = [f"dataset={exam}", f"model={server.model}", f"base_url={server.base_url}", f"run={folder}"]
    return ["submit", "evaluate", *job, "num_workers=4"]


def test_a_submitted_job_is_followed_listed_and_gives_its_own_exit_code(
    scripted_server: ScriptedServer, tmp_path: Path
) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", [*numbered(5), "Question 5 [empty] say: 5"])
    done = run("orchestrator.submit", *submit(scripted_server, exam, tmp_path / "run"))
    assert done.returncode == 3, done.stdout + done.stderr  # one answer is missing; `ray job submit` would say 1
    assert "6 answers wanted" in done.stdout
    assert len(records(tmp_path / "run/predictions.jsonl")) == 6
    job = re.search(r"submitted (\S+)", done.stderr)
    assert job
    listed = run("orchestrator.submit", "list")
    assert re.search(rf"{job[1]}\s+FAILED\s+3\s.*jobs\.evaluate", listed.stdout)
    logs = run("orchestrator.submit", "logs", job[1])
    assert "6 answers wanted" in logs.stdout and logs.returncode == 3


def test_a_stopped_job_goes_on_where_it_was(tmp_path: Path) -> None:
    with ScriptedServer(latency=1.0) as server:
        exam = write_exam(tmp_path / "exam.jsonl", numbered(60))
        folder = tmp_path / "run"
        job = start("orchestrator.submit", *submit(server, exam, folder))
        wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 8, 90, "8 answers")
        listed = run("orchestrator.submit", "list").stdout
        identity = re.search(r"(\S+)\s+RUNNING", listed)
        assert identity, listed
        stopped = run("orchestrator.submit", "stop", identity[1])
        assert stopped.returncode == 0 and "STOPPED" in stopped.stdout, stopped.stderr
        job.communicate(timeout=60)
        assert job.returncode == 130
        kept = {int(record["id"], 16) for record in records(folder / "predictions.jsonl")}
        before = dict(server.requests()["asked"])
        server.latency = 0.0
        again = run("orchestrator.submit", *submit(server, exam, folder))
        assert again.returncode == 0, again.stdout + again.stderr
        after = server.requests()["asked"]
        assert not [n for n in kept if after[numbered(60)[n]] > before[numbered(60)[n]]]
    ids = [record["id"] for record in records(folder / "predictions.jsonl")]
    assert sorted(ids) == [f"{n:024x}" for n in range(60)]


def test_an_unknown_job_or_id_is_named() -> None:
    done = run("orchestrator.submit", "submit", "evaluat")
    assert done.returncode == 2 and "evaluate" in done.stderr
    done = run("orchestrator.submit", "logs", "raysubmit_none")
    assert done.returncode == 2 and "raysubmit_none" in done.stderr
