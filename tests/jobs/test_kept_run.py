"""A run folder that the code before the rooms wrote (commit d10e50b, kept in kept/) is resumed by today's."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import call, records
from tests.support.scripted_server import ScriptedServer

KEPT = Path(__file__).parent / "kept"
PORT = 8931  # of the model that the run asked; it has no revision, so its address is part of its identity


@pytest.mark.usefixtures("cluster")
def test_a_run_of_before_the_rooms_is_resumed(tmp_path: Path) -> None:
    run = shutil.copytree(KEPT / "run", tmp_path / "run")
    before = {name: records(run / f"{name}.jsonl") for name in ("predictions", "judgements")}
    with ScriptedServer(port=PORT) as server:
        address = [f"base_url={server.base_url}", "model=scripted", "judge=scripted"]
        job = [f"dataset={KEPT / 'exam.jsonl'}", f"run={run}", *address, f"judge_base_url={server.base_url}"]
        done = call("jobs.evaluate", *job)
        assert done.returncode == 0, done.stderr
        asked = [question for question in server.requests()["asked"] if question.startswith("Question ")]
    assert sorted(asked) == ["Question 4  say: 4", "Question 5  say: 5"]
    for name, kept in before.items():
        now: list[dict[str, Any]] = records(run / f"{name}.jsonl")
        assert now[: len(kept)] == kept and len({record["id"] for record in now[len(kept) :]}) == 2
        assert len(now) == 6
