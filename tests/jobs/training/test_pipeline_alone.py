"""A pipeline on a machine where no cluster runs: it starts one, and leaves nothing of it behind."""

import os
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.harness import numbered, records, run, start, wait_for, write_exam
from tests.support.scripted_server import ScriptedServer

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "kosen"))
    for name in ("RAY_ADDRESS", "KOSEN_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "kosen"


def write_pipeline(server: ScriptedServer, folder: Path) -> Path:
    exam = write_exam(folder / "exam.jsonl", numbered(30))
    arguments = ["run={here}", f"dataset={exam}", f"model={server.model}", f"base_url={server.base_url}"]
    step = {"job": "evaluate", "arguments": [*arguments, "num_workers=2"]}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"run": str(folder / "run"), "steps": {"only": step}}))
    return folder / "pipeline.yaml"


def left(home: Path) -> list[str]:
    """Command lines of what still runs for this home, this test's own processes aside."""
    mine = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in mine and process.environ().get("KOSEN_HOME") == str(home):
                found.append(" ".join(process.cmdline()))
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


@pytest.mark.timeout(400)
def test_the_cluster_that_it_started_goes_down_with_it(
    scripted_server: ScriptedServer, home: Path, tmp_path: Path
) -> None:
    done = run("jobs.pipeline", "--config", str(write_pipeline(scripted_server, tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(records(tmp_path / "run/only/predictions.jsonl")) == 30
    assert left(home) == []
    assert not (home / "clusters/local/state.json").exists()


@pytest.mark.timeout(400)
def test_so_it_does_when_the_pipeline_is_stopped(home: Path, tmp_path: Path) -> None:
    with ScriptedServer(latency=1.0) as server:
        job = start("jobs.pipeline", "--config", str(write_pipeline(server, tmp_path)))
        wait_for(lambda: records(tmp_path / "run/only/predictions.jsonl"), 200, "an answer")
        os.kill(job.pid, 15)
        assert job.wait(120) == 130
    assert left(home) == []


@pytest.mark.timeout(400)
def test_a_cluster_that_ran_before_stays(scripted_server: ScriptedServer, home: Path, tmp_path: Path) -> None:
    up = run("cluster", "up", timeout=200)
    assert up.returncode == 0, up.stderr
    try:
        assert run("jobs.pipeline", "--config", str(write_pipeline(scripted_server, tmp_path))).returncode == 0
        assert (home / "clusters/local/state.json").exists()
    finally:
        run("cluster", "down", "--name", "local", timeout=120)
    assert left(home) == []
