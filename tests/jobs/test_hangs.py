"""What hangs and what dies under a real exam: stopped processes (SIGSTOP), a stalled network, a cluster that is ended.

Limits of minutes are shortened by `patched`; everything else is real.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.errors import ClusterNotReady
from orchestrator.ray_cluster import watch
from tests.support.harness import (
    Said,
    cluster_processes,
    local_cluster,
    numbered,
    records,
    run,
    seconds_to_end,
    start,
    start_python,
    state_with,
    wait_for,
    write_exam,
)
from tests.support.scripted_server import ScriptedServer
from tests.support.tiny_model import make_tiny_model


def arguments(server: ScriptedServer, exam: Path, folder: Path, *more: str) -> list[str]:
    asked = [f"dataset={exam}", "model=scripted", "provider=compatible", f"base_url={server.base_url}"]
    return [*asked, f"run={folder}", "num_workers=4", *more]


def patched(limits: str, *arguments: str) -> subprocess.Popen[str]:
    """`jobs.evaluate` with other limits: assignments to modules of ours."""
    modules = "from orchestrator.steering import liveness; from jobs import evaluate; from jobs.exam import run"
    code = f"import sys; {modules}; {limits}; evaluate.run_command(lambda: evaluate.main(sys.argv[1:]))"
    return start_python("-c", code, *arguments)


def answering(server: ScriptedServer, exam: Path, folder: Path) -> tuple[subprocess.Popen[str], Said, psutil.Process]:
    """A job that has recorded 4 answers to 60 questions, what it says, and its writer."""
    write_exam(exam, numbered(60))
    job = start("jobs.evaluate", *arguments(server, exam, folder))
    said = Said(job)
    wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 4, 90, "4 answers")
    [writer] = cluster_processes("ray::RecordWriter")
    return job, said, writer


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(200)
def test_a_writer_that_hangs_is_said_and_ctrl_c_works(tmp_path: Path) -> None:
    with ScriptedServer(latency=0.5) as server:
        exam, folder = tmp_path / "exam.jsonl", tmp_path / "run"
        job, said, writer = answering(server, exam, folder)
        with stopped(writer):
            began = time.monotonic()
            wait_for(lambda: "has not answered for" in said, 10, "a sentence")
            assert time.monotonic() - began < 10
            assert seconds_to_end(job, signal.SIGINT) < 5
        assert "run the same command to resume" in said.all() and "Traceback" not in said, said.text
        assert job.returncode == 130
        wait_for(lambda: not writer.is_running(), 20, "the writer's end")
        again = run("jobs.evaluate", *arguments(server, exam, folder))
        assert again.returncode == 0, again.stderr
        assert sorted(int(record["id"], 16) for record in records(folder / "predictions.jsonl")) == list(range(60))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(200)
def test_a_writer_that_hangs_for_a_while_costs_only_time(tmp_path: Path) -> None:
    with ScriptedServer(latency=0.3) as server:
        exam, folder = tmp_path / "exam.jsonl", tmp_path / "run"
        job, said, writer = answering(server, exam, folder)
        with stopped(writer):
            wait_for(lambda: "has not answered for" in said, 10, "a sentence")
        wait_for(lambda: "answers again after" in said, 10, "another")
        assert job.wait(90) == 0, said.all()
        assert said.text.count("has not answered for") == 1
        assert sorted(int(record["id"], 16) for record in records(folder / "predictions.jsonl")) == list(range(60))
        assert set(server.requests()["asked"].values()) == {1}


@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", ["predict", pytest.param("judge", marks=pytest.mark.slow)])
def test_a_batching_actor_that_hangs_is_started_anew(which: str, tmp_path: Path) -> None:
    with ScriptedServer(latency=0.3) as server, ScriptedServer(latency=0.3, model="judge") as judge:
        questions = numbered(60)
        exam, folder = write_exam(tmp_path / "exam.jsonl", questions), tmp_path / "run"
        judging = ["judge=judge", f"judge_base_url={judge.base_url}", "judge_num_workers=4"]
        job = patched("run.SILENT = 8", *arguments(server, exam, folder, *judging))
        said = Said(job)
        wait_for(lambda: len(records(folder / "judgements.jsonl")) >= 4, 90, "4 verdicts")
        actors = {actor.pid: actor for actor in cluster_processes("ray::MapWorker")}
        asks = next(pid for pid in actors if talks_to(actors[pid], server if which == "predict" else judge))
        actors[asks].suspend()
        wait_for(lambda: f"{which}: process {asks}, which has" in said, 40, "a sentence")
        wait_for(lambda: not actors[asks].is_running(), 10, "its end")
        assert job.wait(120) == 0, said.all()
        assert "Traceback" not in said
        assert sorted(int(record["id"], 16) for record in records(folder / "predictions.jsonl")) == list(range(60))
        assert {int(record["id"], 16) for record in records(folder / "judgements.jsonl")} == set(range(60))
        assert max(server.requests()["asked"].values()) <= 2  # what was under way
        stalls = [event for event in records(folder / "events.jsonl") if event["event"] == "actor_stalled"]
        assert [(event["stage"], event["process"]) for event in stalls] == [(which, asks)]


def talks_to(process: psutil.Process, server: ScriptedServer) -> bool:
    return any(link.raddr and link.raddr.port == server.port for link in process.net_connections("tcp"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(200)
def test_ctrl_c_works_while_a_batching_actor_hangs(tmp_path: Path) -> None:
    with ScriptedServer(latency=0.3) as server:
        exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(60)), tmp_path / "run"
        job = start("jobs.predict", *arguments(server, exam, folder))
        wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 4, 90, "4 answers")
        [actor] = cluster_processes("ray::MapWorker")
        with stopped(actor):
            assert seconds_to_end(job, signal.SIGINT) < 5
            wait_for(lambda: not actor.is_running(), 20, "the actor's end")
        assert job.returncode == 130


@pytest.mark.usefixtures("cluster")
@pytest.mark.timeout(200)
def test_a_judge_whose_network_stalls_is_said_and_does_not_hold_the_answers_up(tmp_path: Path) -> None:
    """Its packets are taken and nothing comes back, as behind a firewall that forgot the connection."""
    with ScriptedServer(latency=0.3) as server, ScriptedServer(latency=0.3, model="judge") as judge:
        exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(60)), tmp_path / "run"
        judging = ["judge=judge", f"judge_base_url={judge.base_url}", "judge_num_workers=4"]
        limits = "liveness.SPEECHLESS['judge'] = 6.0; run.JUDGE_SPEECHLESS = 12.0"
        job = patched(limits, *arguments(server, exam, folder, *judging))
        said = Said(job)
        wait_for(lambda: len(records(folder / "judgements.jsonl")) >= 4, 90, "4 verdicts")
        judge.latency = 3600.0
        wait_for(lambda: "no response for" in said, 30, "a sentence")
        assert "judge: 4 requests are under way" in said
        assert job.wait(90) == 4, said.all()
        assert "judge=judge has answered nothing for 12 s" in said and "Traceback" not in said, said.text
        assert sorted(int(record["id"], 16) for record in records(folder / "predictions.jsonl")) == list(range(60))
        judge.latency = 0.0
        again = run("jobs.evaluate", *arguments(server, exam, folder, *judging))
        assert again.returncode == 0, again.stderr
        assert set(server.requests()["asked"].values()) == {1}
        assert {int(record["id"], 16) for record in records(folder / "judgements.jsonl")} == set(range(60))


@pytest.mark.usefixtures("cluster")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ctrl_c_works_while_an_engine_hangs_and_leaves_none_behind(tmp_path: Path) -> None:
    exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(200)), tmp_path / "run"
    model = make_tiny_model(tmp_path / "tiny")
    options = ["provider=vllm", "serving.max_num_seqs=4", "max_completion_tokens=300"]
    job = start("jobs.predict", f"dataset={exam}", f"model={model}", f"run={folder}", *options)
    said = Said(job)
    wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 4 or job.poll() is not None, 200, "4 answers")
    [engine] = cluster_processes("VLLM::EngineCore")
    with stopped(engine):
        time.sleep(2)  # requests are under way
        assert seconds_to_end(job, signal.SIGINT) < 5, said.text
        assert job.returncode == 130, said.all()
        wait_for(lambda: not engine.is_running(), 60, "the engine's end")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_cluster_that_is_taken_down_under_a_submitted_job_is_told_of(tmp_path: Path) -> None:
    with local_cluster(tmp_path / "home"), ScriptedServer(latency=0.5) as server:
        exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(200)), tmp_path / "run"
        job = start("orchestrator.submit", "submit", "evaluate", *arguments(server, exam, folder))
        wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 4, 120, "4 answers")
        assert run("cluster", "down", "--name", "local").returncode == 0
        out, err = job.communicate(timeout=30)
        assert job.returncode == 4, out + err
        assert (out + err).count("error: ") == 1 and "Traceback" not in out + err, out + err


@pytest.mark.timeout(200)
def test_a_cluster_that_is_taken_down_under_a_job_is_told_of(tmp_path: Path) -> None:
    with local_cluster(tmp_path / "home"), ScriptedServer(latency=0.5) as server:
        exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(200)), tmp_path / "run"
        job = start("jobs.evaluate", *arguments(server, exam, folder))
        wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 4, 90, "4 answers")
        assert run("cluster", "down", "--name", "local").returncode == 0
        _, err = job.communicate(timeout=20)
        assert job.returncode == 4, err
        assert "cluster 'local' was taken down under this job" in err and "Traceback" not in err
        assert "run the same command to resume" in err
        kept = len(records(folder / "predictions.jsonl"))
        server.latency = 0.0
        again = run("jobs.evaluate", *arguments(server, exam, folder))  # on a cluster of its own
        assert again.returncode == 0 and f"{kept} recorded already" in again.stderr, again.stderr


STATE = state_with(name="local", scheduler="local", started_at="now")


@pytest.mark.parametrize(
    ("found", "gone"),
    [
        (STATE, False),
        (replace(STATE, phase="degraded"), False),
        (replace(STATE, phase="stopping"), True),
        (replace(STATE, phase="failed"), True),
        (replace(STATE, started_at="later"), True),
        (None, True),
        (OSError("stale file handle"), False),
        (ClusterNotReady("state.json is no state of a cluster"), False),
    ],
)
def test_when_a_cluster_counts_as_gone(found: Any, gone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_state(name: str) -> Any:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(watch, "read_state", read_state)
    assert watch.is_gone(STATE) is gone
