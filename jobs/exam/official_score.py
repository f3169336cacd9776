"""Scores a judged file in HLE's official layout over all rows of its data set. Needs no cluster, and no Ray."""

from pathlib import Path
from typing import Any

from jobs.exam import leaderboard
from jobs.exam.figures import Failures, outcome, write_metrics
from jobs.exam.official_files import read_official
from jobs.tasks import hle, metrics
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


def score_official(judged: Path, dataset: str, out: Path | None = None) -> dict[str, Any]:
    """Score a judged file in HLE's official schema over all rows of `dataset`, those of FIRST_FIGURES first.

    With `out`, write `out`/metrics.json and a leaderboard folder too. Raises SpecError for a file that is missing or
    not in its schema, a file of predictions among them, StorageFailed when `out` cannot be written.
    """
    file = read_official(judged, "judged")
    items = _read_items(dataset)
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
    categories = {identity: item.category for identity, item in items.items()}
    scores = metrics.score(categories, 1, (outcome(*pair) for pair in failures.counted(pairs)))
    figures = {name: scores[name] for name in FIRST_FIGURES} | scores | failures.figures()
    figures["n_duplicate_id"] = file.n_duplicates
    if out:
        leaderboard.write_leaderboard(out, pairs[0][0]["model"], items, pairs, figures)
        write_metrics(out / "metrics.json", figures)
    return figures


def _read_items(dataset: str) -> dict[str, hle.Item]:
    try:
        return {item.id: item for item in hle.items_from_rows(read_rows(dataset, columns=hle.COLUMNS))}
    except ValueError as error:
        raise SpecError(f"{dataset}: {error}") from None
