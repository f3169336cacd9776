"""A pipeline's steps as Ray Jobs: folders, failures that stop only what needs them, steps that are done once."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.harness import numbered, records, run, start, wait_for, write_exam
from tests.support.scripted_server import ScriptedServer

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow]


def evaluate(server: ScriptedServer, exam: Path, *needs: str) -> dict[str, Any]:
    arguments = ["run={here}", f"dataset={exam}", f"model={server.model}", f"base_url={server.base_url}"]
    return {"job": "evaluate", "arguments": [*arguments, "num_workers=4"], "needs": list(needs)}


def write_pipeline(folder: Path, steps: dict[str, Any]) -> Path:
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"run": str(folder / "run"), "steps": steps}))
    return file


def pipeline(file: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Exit code, the table's rows by step, and what was said."""
    done = run("jobs.pipeline", "--config", str(file), "--json", *options)
    rows = json.loads(done.stdout) if done.stdout else []
    return done.returncode, {row["step"]: row for row in rows}, done.stderr


def test_a_failed_step_stops_what_needs_it_and_nothing_else(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", numbered(6))
    missing = tmp_path / "missing.jsonl"
    good, bad = evaluate(scripted_server, exam), evaluate(scripted_server, missing)
    steps = {"bad": bad, "after_bad": {**good, "needs": ["bad"]}, "good": good, "last": {**good, "needs": ["good"]}}
    file = write_pipeline(tmp_path, steps)
    code, rows, _ = pipeline(file, "--dry-run")
    assert code == 0 and {row["state"] for row in rows.values()} == {"waiting"}

    code, rows, said = pipeline(file)
    assert code == 4
    assert {name: row["state"] for name, row in rows.items()} == {
        "bad": "failed",
        "after_bad": "not run",
        "good": "finished",
        "last": "finished",
    }
    assert rows["bad"]["exit_code"] == 2 and "no data set file" in rows["bad"]["problem"], said
    assert rows["good"]["figures"]["n_judged"] == 6
    assert "6 answers wanted" in (tmp_path / "run/good/job.log").read_text()

    missing.write_text(exam.read_text())
    asked = scripted_server.requests()["asked"].copy()
    code, rows, said = pipeline(file)
    assert code == 0, said
    assert {row["state"] for row in rows.values()} == {"finished"}
    assert "good: finished already" in said
    once_more = scripted_server.requests()["asked"]
    assert sum(once_more.values()) - sum(asked.values()) == 12  # `bad` and `after_bad`, nothing else


def test_an_interrupted_pipeline_stops_its_job_and_goes_on_there(tmp_path: Path) -> None:
    with ScriptedServer(latency=1.0) as server:
        exam = write_exam(tmp_path / "exam.jsonl", numbered(40))
        file = write_pipeline(tmp_path, {"only": evaluate(server, exam)})
        answers = tmp_path / "run/only/predictions.jsonl"
        job = start("jobs.pipeline", "--config", str(file))
        wait_for(lambda: len(records(answers)) >= 5, 120, "five answers")
        os.kill(job.pid, signal.SIGTERM)
        assert job.wait(120) == 130
        listed = run("orchestrator.submit", "list").stdout
        state = json.loads((tmp_path / "run/only/step.json").read_text())
        assert re.search(rf"{state['submission_id']}\s+STOPPED", listed), listed
        kept = len(records(answers))
        server.latency = 0.0
        code, rows, said = pipeline(file)
        assert code == 0, said
    assert kept < 40 and rows["only"]["figures"]["n_judged"] == 40
    assert len(records(answers)) == 40


def test_a_killed_pipeline_follows_the_job_that_it_left_running(tmp_path: Path) -> None:
    with ScriptedServer(latency=1.0) as server:
        exam = write_exam(tmp_path / "exam.jsonl", numbered(60))
        file = write_pipeline(tmp_path, {"only": evaluate(server, exam)})
        job = start("jobs.pipeline", "--config", str(file))
        wait_for(lambda: len(records(tmp_path / "run/only/predictions.jsonl")) >= 5, 120, "five answers")
        os.kill(job.pid, signal.SIGKILL)
        job.wait(10)
        before = json.loads((tmp_path / "run/only/step.json").read_text())["submission_id"]
        code, rows, said = pipeline(file)
        assert code == 0, said
        assert json.loads((tmp_path / "run/only/step.json").read_text())["submission_id"] == before
    assert rows["only"]["figures"]["n_judged"] == 60
