"""Result of a training, read from its run folder: the last figures, the attempts, the time. `metrics.json`."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import orjson

from orchestrator.files import write_atomic
from orchestrator.records.types import digest
from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.folder import TrainingFolder, parse_lines, read_journal

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A finished training. None: not measured."""

    step: int
    loss: float | None  # SFT: of the last step
    val_loss: float | None
    score: float | None  # PPO: mean reward of the last step's answers, before the KL penalty
    val_score: float | None  # mean over the validation data
    attempts: int
    seconds: float  # of all attempts, from each start to its end
    checkpoint: str


def config_digest(folder: TrainingFolder) -> str:
    """Whether two attempts trained the same thing."""
    return digest(folder.verl_config.read_text(encoding="utf-8"))


def write_result(folder: TrainingFolder, step: int) -> TrainingResult:
    """Measure a finished run and mark it as finished. Raises StorageFailed."""
    lines = read_journal(folder)
    result = TrainingResult(
        step=step,
        loss=latest(lines, "train/loss"),
        val_loss=latest(lines, "val/loss"),
        score=latest(lines, "critic/score/mean"),
        val_score=latest(lines, "val-core/"),
        attempts=len(_starts(folder)),
        seconds=_seconds(folder, lines),
        checkpoint=str(checkpoints.path_of(folder.checkpoints, step)),
    )
    marked = asdict(result) | {"config": config_digest(folder)}
    write_atomic(folder.path / "metrics.json", orjson.dumps(marked, option=orjson.OPT_INDENT_2).decode() + "\n")
    return result


def read_result(folder: TrainingFolder) -> TrainingResult | None:
    """The result of a run that finished with the present configuration, else None."""
    values = _metrics(folder)
    if values.pop("config", None) != config_digest(folder) or values.keys() != {*TrainingResult.__slots__}:
        return None
    return TrainingResult(**values)


def read_mark(folder: TrainingFolder) -> int | None:
    """The last step of a run that finished, with whatever configuration."""
    step = _metrics(folder).get("step")
    return step if isinstance(step, int) else None


def _metrics(folder: TrainingFolder) -> Line:
    """What `write_result` wrote; nothing where there is no such file, or another tool's."""
    try:
        found = orjson.loads((folder.path / "metrics.json").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def finished_step(folder: TrainingFolder) -> int | None:
    """The last step, if the last attempt had the present configuration and the checkpoint of its last step is whole."""
    starts = _starts(folder)
    if not starts or starts[-1]["config"] != config_digest(folder):
        return None
    step = checkpoints.newest_good(folder.checkpoints)
    return step if step is not None and step == planned_steps(read_journal(folder)) else None


def planned_steps(lines: Sequence[Line]) -> int | None:
    return next((line["total_steps"] for line in reversed(lines) if line["event"] == "plan"), None)


def latest(lines: Sequence[Line], name: str) -> float | None:
    """The last number that a step has for a metric: `name`, or the first mean below it if it ends in a slash."""
    for line in reversed(lines):
        for key, value in (line.get("metrics") or {}).items():
            wanted = key.startswith(name) and "/mean@" in key if name.endswith("/") else key == name
            if wanted and isinstance(value, int | float):
                return float(value)
    return None


def _starts(folder: TrainingFolder) -> list[Line]:
    return [line for line in _events(folder) if line["event"] == "attempt_started"]


def _events(folder: TrainingFolder) -> list[Line]:
    path = folder.path / "events.jsonl"
    return parse_lines(path.read_bytes()) if path.exists() else []


def _seconds(folder: TrainingFolder, lines: Sequence[Line]) -> float:
    """All time but that before each start: an attempt whose supervisor was killed ends with its last line."""
    events = [line for line in _events(folder) if line["event"] in ("attempt_started", "attempt_ended")]
    marks = sorted((datetime.fromisoformat(line["time"]), line["event"]) for line in [*events, *lines])
    spans = ((later - earlier, event) for (earlier, _), (later, event) in itertools.pairwise(marks))
    return round(sum(span.total_seconds() for span, event in spans if event != "attempt_started"), 1)
