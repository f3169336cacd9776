"""A results folder as the report reads it: the parts' JSON files, GPU figures, what the events say. Needs no Ray."""

import csv
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cluster.files import json_lines
from jobs.benchmarking.results import Collectives, Compute, Environment, PartResult, Serve, Train
from jobs.benchmarking.spec import BenchSpec
from orchestrator.errors import SpecError
from orchestrator.spec import load_spec

GPU_FILE = "gpu_metrics.csv"


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One row of gpu_metrics.csv; None is an empty cell. `use` is a share of the time, `memory` of the GPU's own."""

    time: datetime
    node: str
    index: str
    use: float | None
    memory: float | None
    temperature: float | None  # °C


@dataclass(frozen=True, slots=True)
class PartTime:
    """The time that a part took. `problem` is why it ended without all of its figures."""

    start: datetime
    end: datetime | None = None
    problem: str | None = None


@dataclass(frozen=True)
class BenchResults:
    """All that a results folder says; None or empty where it says nothing."""

    folder: Path
    spec: BenchSpec | None = None
    environment: Environment | None = None
    compute: Compute | None = None
    collectives: Collectives | None = None
    train: Train | None = None
    serve: Serve | None = None
    gpus: list[GpuReading] = field(default_factory=list)
    windows: dict[str, PartTime] = field(default_factory=dict)  # by part
    problems: list[str] = field(default_factory=list)  # files that could not be read

    @property
    def measured(self) -> list[str]:
        """The parts that have figures."""
        parts = {"compute": self.compute, "collectives": self.collectives, "train": self.train, "serve": self.serve}
        return [name for name, result in parts.items() if result is not None]


def read_results(folder: Path) -> BenchResults:
    """What the folder holds. A file that is damaged counts as not measured and is named in `problems`."""
    problems: list[str] = []
    return BenchResults(
        folder,
        spec=_spec(folder / "spec.yaml", problems),
        environment=_result(Environment, folder, problems),
        compute=_result(Compute, folder, problems),
        collectives=_result(Collectives, folder, problems),
        train=_result(Train, folder, problems),
        serve=_result(Serve, folder, problems),
        gpus=_gpu_readings(folder / GPU_FILE, problems),
        windows=read_windows(folder),
        problems=problems,
    )


R = TypeVar("R", bound=PartResult)


def _result(kind: type[R], folder: Path, problems: list[str]) -> R | None:
    try:
        return kind.read(folder)
    except SpecError as error:
        problems.append(str(error))
        return None


def _spec(path: Path, problems: list[str]) -> BenchSpec | None:
    if not path.exists():
        return None
    try:
        return load_spec(BenchSpec, path, [])
    except SpecError as error:
        problems.append(f"{path}: {error}")
        return None


def read_windows(folder: Path) -> dict[str, PartTime]:
    """When each part ran last, by the events of the run."""
    windows: dict[str, PartTime] = {}
    for event in json_lines(folder / "events.jsonl"):
        part, time = str(event.get("part")), datetime.fromisoformat(event["time"])
        if event["event"] == "part_started":
            windows[part] = PartTime(time)
        elif event["event"] in ("part_measured", "part_failed") and part in windows:
            windows[part] = PartTime(windows[part].start, time, event.get("error"))
    return windows


def _gpu_readings(path: Path, problems: list[str]) -> list[GpuReading]:
    if not path.exists():
        return []
    readings, damaged = [], 0
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            try:
                readings.append(_reading(row))
            except (KeyError, TypeError, ValueError):  # a torn row, or another file
                damaged += 1
    if damaged:
        problems.append(f"{path}: skipped {damaged} damaged rows")
    return readings


def _reading(row: dict[str, str]) -> GpuReading:
    used, total = _number(row["memory_used_mb"]), _number(row["memory_total_mb"])
    use = _number(row["utilization_gpu"])
    return GpuReading(
        time=datetime.fromisoformat(row["timestamp"]).astimezone(UTC),
        node=row["node"],
        index=row["gpu_index"],
        use=None if use is None else use / 100,
        memory=used / total if used is not None and total else None,
        temperature=_number(row["temperature"]),
    )


def _number(cell: str | None) -> float | None:
    if cell is None:
        raise ValueError("the row ends before this cell")
    return float(cell) if cell else None
