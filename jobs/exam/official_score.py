"""Scores a judged file in the official layout over all rows of its data set. Needs no cluster, and no Ray."""

from pathlib import Path
from typing import Any

from jobs.exam import leaderboard
from jobs.exam.figures import Failures, outcome, write_metrics
from jobs.exam.official_files import read_official
from jobs.tasks.registry import DEFAULT_TASK, find_task
from jobs.tasks.task import Item, Results, Task
from orchestrator.data.source import read_rows
from orchestrator.errors import SpecError

FIRST_FIGURES = (
    "accuracy",
    "accuracy_half_width",
    "accuracy_wilson",
    "calibration_error_official",
    "calibration_error",
    "n_total",
    "n_answered",
    "n_judged",
)


def score_official(judged: Path, dataset: str, out: Path | None = None, named: str = DEFAULT_TASK) -> dict[str, Any]:
    """Score a judged file in the official schema over all rows of `dataset`, those of FIRST_FIGURES first.

    With `out`, write `out`/metrics.json and a leaderboard folder too. Raises SpecError for a file that is missing or
    not in its schema, a file of predictions among them, StorageFailed when `out` cannot be written.
    """
    file, task = read_official(judged, "judged"), find_task(named)
    items = _read_items(task, dataset)
    if not file.entries.keys() & items.keys():
        raise SpecError(
            f"none of the {len(file.entries)} ids in {judged} is in {dataset}; expected the set it was judged on"
        )
    if not file.is_judged:
        raise SpecError(
            f"{judged} holds no verdicts: none of its {len(file.entries)} entries has a judge_response. A file of "
            "predictions is judged by python -m jobs.judge --predictions FILE --dataset FILE"
        )
    pairs = list(file.answers())
    failures = Failures()
    scores = task.figures(items, 1, (outcome(*pair) for pair in failures.counted(pairs)))
    figures = {name: scores[name] for name in FIRST_FIGURES if name in scores} | scores | failures.figures()
    figures["n_duplicate_id"] = file.n_duplicates
    if out:
        results = Results(pairs[0][0]["model"], 1, items, lambda: pairs)
        leaderboard.write_leaderboard(out, results, figures, task.known_categories)
        write_metrics(out / "metrics.json", figures)
    return figures


def _read_items(task: Task, dataset: str) -> dict[str, Item]:
    try:
        return {item.id: item for item in task.items(read_rows(dataset, columns=task.columns))}
    except ValueError as error:
        raise SpecError(f"{dataset}: {error}") from None
