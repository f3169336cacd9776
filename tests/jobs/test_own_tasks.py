"""Tasks that nothing else knows of, from the dry run to the score: a file in the folder, a file by path, a YAML."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from tests.support.harness import records
from tests.support.scripted_server import ScriptedServer
from tests.support.toys import ROWS, TOY

pytestmark = pytest.mark.usefixtures("cluster")


def evaluate(*arguments: str, code: Path = REPOSITORY) -> str:
    """Run the job on the code in a folder; its exit code is 0."""
    command = [sys.executable, "-m", "jobs.evaluate", *arguments]
    done = subprocess.run(command, cwd=code, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the code, and one file more."""
    for room in ("cluster", "orchestrator", "jobs", "conf"):
        shutil.copytree(REPOSITORY / room, tmp_path / "code" / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path / "code")
    (tmp_path / "code/jobs/tasks/backwards.py").write_text(TOY)
    return tmp_path / "code"


@pytest.mark.parametrize("named", ["backwards", "mine.py"])
def test_a_task_of_one_file(scripted_server: ScriptedServer, tmp_path: Path, code: Path, named: str) -> None:
    """By path, its class travels to Ray's actors, which cannot import it."""
    (tmp_path / "words.jsonl").write_text(ROWS)
    (tmp_path / "mine.py").write_text(TOY)
    task = named if named == "backwards" else str(tmp_path / named)
    given = [f"task={task}", f"dataset={tmp_path / 'words.jsonl'}", "model=scripted", f"run={tmp_path / 'run'}"]
    given += [f"base_url={scripted_server.base_url}", "provider=compatible"]
    where = code if named == "backwards" else REPOSITORY
    assert "2 questions × 1 = 2 answers" in evaluate("--dry-run", *given, code=where)
    shown = evaluate(*given, code=where)
    assert "letters" in shown and "calibration" not in shown

    options = scripted_server.requests()["options"]
    assert {text: asked[0].get("temperature") for text, asked in options.items()} == {
        "Backwards, say: cba": 0.25,
        "Backwards, say: xyz": None,
    }
    verdicts = {record["id"]: record for record in records(tmp_path / "run/judgements.jsonl")}
    assert {name: (verdict["verdict"], verdict["scores"]) for name, verdict in verdicts.items()} == {
        "abc": ("yes", {"letters": 3.0}),
        "xyz": ("no", {"letters": 3.0}),
    }
    figures: dict[str, Any] = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (figures["accuracy"], figures["scores"]) == (50.0, {"letters": 3.0})
    assert not (tmp_path / "run/exports").exists(), "the task has no files of its own"

    evaluate(*given, "num_workers=3", code=where)
    assert scripted_server.requests()["total"] == 2 and len(records(tmp_path / "run/judgements.jsonl")) == 2


def test_a_yaml_beside_its_rows(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    (tmp_path / "capitals.jsonl").write_text('{"country": "France", "capital": "Paris"}\n')
    (tmp_path / "capitals.yaml").write_text('prompt: "The capital of {country}? say: Paris"\nanswer: capital\n')
    given = [f"task={tmp_path / 'capitals.yaml'}", "model=scripted", f"run={tmp_path / 'run'}"]
    evaluate(*given, f"base_url={scripted_server.base_url}", "provider=compatible")
    assert json.loads((tmp_path / "run/metrics.json").read_text())["accuracy"] == 100.0
