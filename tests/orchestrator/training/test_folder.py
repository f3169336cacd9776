"""A training's journal and events, with lines in them that are not ours."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.training.folder import Failure, Journal, TrainingFolder, figures, parse_lines, read_journal
from orchestrator.training.supervision import outcome

TIME = {"time": "2026-11-27T00:00:00.000+00:00"}
FOREIGN: list[Any] = [
    {"id": 1, "sample": 0},
    {"event": "step"},
    {"event": "step", "step": 1, "metrics": {}},
    TIME | {"event": "step", "step": "1", "metrics": {}},
    TIME | {"event": "step", "step": 1, "metrics": None},
    TIME | {"event": "plan"},
    TIME | {"event": "checkpoint", "step": None},
    TIME | {"event": "attempt_started"},
    TIME | {"event": 5},
    TIME | {"event": "phase"},
    {"time": "2026-11-27T00:00:00", "event": "phase", "phase": "saving"},  # of no time zone
    {"time": "yesterday", "event": "phase", "phase": "saving"},
    {"time": 5, "event": "phase", "phase": "saving"},
    [],
    "step",
    3,
    None,
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_line_of_valid_json_is_passed_over(foreign: Any, tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.journal.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder)
    journal.phase("training")
    journal.total(4, 0)
    journal.step(1, {"train/loss": 2.0})
    with folder.journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(foreign) + "\n")
    journal.step(2, {"train/loss": 1.0})
    journal.checkpoint(2)
    assert [line["event"] for line in read_journal(folder)] == ["phase", "plan", "step", "step", "checkpoint"]
    assert figures(folder) == {1: {"train/loss": 2.0}, 2: {"train/loss": 1.0}}
    assert parse_lines(b'{"event"\n' + json.dumps(foreign).encode()) == []


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"5", b"null", b"\xff", b"{}", b'{"step": null}', b'{"config": "x", "step": "a"}']
)
def test_files_of_other_tools_are_no_figures_and_no_traceback(text: bytes, tmp_path: Path) -> None:
    folder = TrainingFolder(tmp_path)
    folder.verl_config.write_text("a: 1")
    for name in ("metrics.json", "failure.json"):
        (tmp_path / name).write_bytes(text)
    assert outcome.read_result(folder) is None
    assert outcome.read_mark(folder) is None
    failure = folder.failure()
    assert failure and failure.kind == "other" and "failure.json" in failure.message


def test_a_failure_of_a_later_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "failure.json").write_text('{"kind": "nan", "message": "m", "step": 3, "more": 1}')
    assert TrainingFolder(tmp_path).failure() == Failure("nan", "m", 3)
