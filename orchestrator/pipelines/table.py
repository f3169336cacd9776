"""Prints the state and the results of the steps of a pipeline."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from cluster.streams import print_json, visible
from orchestrator.errors import INCOMPLETE
from orchestrator.pipelines.plan import PipelineStep, StepProgress

Describe = Callable[[Mapping[str, Any]], tuple[str, str]]  # of a step's figures: the score, and what it rests on


def print_steps(
    steps: Sequence[PipelineStep], progress: Mapping[str, StepProgress], describe: Describe, *, as_json: bool
) -> None:
    rows = [(step, progress[step.name], figures_of(step.folder)) for step in steps]
    if as_json:
        print_json([_row(*row) for row in rows])
        return
    table = Table("step", "state", "time", "score", "result", box=box.SIMPLE_HEAD)
    for step, where, figures in rows:
        time_taken = "" if where.seconds is None else f"{where.seconds:.0f} s"
        score, result = describe(figures)
        table.add_row(step.name, _state(where), time_taken, score, visible(where.problem or result))
    Console(highlight=False, markup=False, emoji=False).print(table)


def _state(progress: StepProgress) -> str:
    return "finished, with gaps" if progress.exit_code == INCOMPLETE else progress.state


def _row(step: PipelineStep, progress: StepProgress, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "step": step.name,
        "job": step.job,
        "model": step.model,
        "state": progress.state,
        "exit_code": progress.exit_code,
        "seconds": progress.seconds,
        "problem": progress.problem,
        "folder": str(step.folder),
        "figures": figures,
    }


def figures_of(folder: Path) -> dict[str, Any]:
    """What the step measured; empty where it wrote no figures."""
    try:
        figures: dict[str, Any] = orjson.loads((folder / "metrics.json").read_bytes())
    except FileNotFoundError:
        return {}
    return figures
