"""The folder of a training run: what lies where, and how a trainer and its supervisor communicate through it.

A trainer may run on another node than its supervisor, so all of it is files on the shared file system, written whole.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import orjson

# `nan`, `reward` and `data` would fail again; `disk` needs a person; `checkpoint` and `other` are worth another try.
FailureKind = Literal["nan", "reward", "data", "disk", "checkpoint", "other"]
Phase = Literal["starting", "training", "validating", "saving"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trainer ended: one sentence, and the step that it was in (None: before the first)."""

    kind: FailureKind
    message: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """`<run_root>/<run>/` of a training run."""

    path: Path

    @property
    def verl_config(self) -> Path:
        """The resolved configuration that the trainer reads."""
        return self.path / "verl.yaml"

    @property
    def checkpoints(self) -> Path:
        """verl's `trainer.default_local_dir`: `global_step_<N>/` and verl's tracker file."""
        return self.path / "checkpoints"

    @property
    def data(self) -> Path:
        """`train.parquet`, `val.parquet` and `report.json`, as `orchestrator.training.data.convert` wrote them."""
        return self.path / "data"

    @property
    def logs(self) -> Path:
        """`attempt-<N>.log`: what the trainer of each attempt printed."""
        return self.path / "logs"

    @property
    def journal(self) -> Path:
        return self.path / "training.jsonl"

    def ask_to_stop(self) -> None:
        """The trainer saves a checkpoint after the step that it is in, and ends with exit code 130."""
        self._stop_flag.touch()

    def stop_asked(self) -> bool:
        return self._stop_flag.exists()

    def clear(self) -> None:
        """Forget the stop flag and the failure of an earlier attempt."""
        self._stop_flag.unlink(missing_ok=True)
        self._failure.unlink(missing_ok=True)

    def report_failure(self, failure: Failure) -> None:
        """Called where the failure happens; the first report of an attempt counts, later ones are its consequences."""
        text = orjson.dumps({"kind": failure.kind, "message": failure.message, "step": failure.step}).decode()
        draft = self._failure.with_suffix(f".{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        try:
            os.link(draft, self._failure)  # fails where there is one, and no reader sees half a file
        except FileExistsError:
            pass
        finally:
            draft.unlink()

    def failure(self) -> Failure | None:
        try:
            found = orjson.loads(self._failure.read_bytes())
        except FileNotFoundError:
            return None
        except orjson.JSONDecodeError:
            found = None
        if isinstance(found, dict) and found.get("kind") in get_args(FailureKind):
            step = found.get("step")
            return Failure(found["kind"], str(found.get("message")), step if isinstance(step, int) else None)
        return Failure("other", f"a failure that cannot be read: {self._failure}")

    @property
    def _stop_flag(self) -> Path:
        return self.path / "stop"

    @property
    def _failure(self) -> Path:
        return self.path / "failure.json"


class Journal:
    """`training.jsonl`, written by the one process of a trainer that logs: a line a phase, a step, a checkpoint.

    Every line is a sign of life to the supervisor. A step that is done again after a failure has two lines, of which
    the later counts. `metrics` keeps verl's names.
    """

    def __init__(self, folder: TrainingFolder) -> None:
        self._path = folder.journal

    def phase(self, phase: Phase) -> None:
        self._add(event="phase", phase=phase)

    def total(self, steps: int, resumed_from: int) -> None:
        """Known once the data is loaded: the last step, and the step that this attempt resumes from."""
        self._add(event="plan", total_steps=steps, resumed_from=resumed_from)

    def step(self, step: int, metrics: dict[str, Any]) -> None:
        self._add(event="step", step=step, metrics=metrics)

    def checkpoint(self, step: int) -> None:
        """A checkpoint of this step is complete and sealed."""
        self._add(event="checkpoint", step=step)

    def _add(self, **fields: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | fields
        options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
        with self._path.open("ab") as stream:
            stream.write(orjson.dumps(line, option=options, default=float))


def read_journal(folder: TrainingFolder) -> list[dict[str, Any]]:
    """All whole lines of the journal, oldest first."""
    try:
        return parse_lines(folder.journal.read_bytes())
    except FileNotFoundError:
        return []


def parse_lines(text: bytes) -> list[dict[str, Any]]:
    """Whole JSON lines that hold an event of ours.

    A full disk can leave half a line in the middle, and other tools theirs, which are left out.
    """
    parsed = []
    for line in text.splitlines(keepends=True):
        with suppress(orjson.JSONDecodeError):
            if line.endswith(b"\n") and _is_event(found := orjson.loads(line)):
                parsed.append(found)
    return parsed


def _is_event(line: Any) -> bool:
    """Whether it has what its readers take for given, in the right types."""
    if not isinstance(line, dict) or not isinstance(line.get("event"), str):
        return False
    try:
        if datetime.fromisoformat(line.get("time")).tzinfo is None:  # type: ignore[arg-type]
            return False
    except (TypeError, ValueError):
        return False
    return all(isinstance(line.get(name), kind) for name, kind in _FIELDS.get(line["event"], {}).items())


_FIELDS: dict[str, dict[str, type]] = {
    "phase": {"phase": str},
    "plan": {"total_steps": int, "resumed_from": int},
    "step": {"step": int, "metrics": dict},
    "checkpoint": {"step": int},
    "attempt_started": {"config": str},
}


def figures(folder: TrainingFolder) -> dict[int, dict[str, float]]:
    """All metrics by step, of a step that was done again the latest."""
    steps: dict[int, dict[str, float]] = {}
    for line in read_journal(folder):
        if line["event"] == "step":
            steps.setdefault(line["step"], {}).update(line["metrics"])
    return steps


def loss_curve(folder: TrainingFolder, metric: str) -> dict[int, float]:
    """`metric` by step, the latest figure of each step."""
    return {step: metrics[metric] for step, metrics in figures(folder).items() if metric in metrics}
