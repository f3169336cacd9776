"""Scores an exam: a run folder (`--config FILE key=value …`), or files in HLE's official layouts from elsewhere:

    python -m jobs.score --judged FILE --dataset FILE --out DIR --json

Neither needs a cluster, and the second not even Ray. Exit codes: 0 where everything asked has an answer and a verdict,
3 where something has not, 2 where a file is not what it should be.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.streams import print_json
from jobs import leaderboard
from jobs.leaderboard import Answer
from jobs.official import read_official, usage_of
from jobs.showing import print_figures
from jobs.tasks import hle, metrics
from orchestrator.datasource import read_rows
from orchestrator.errors import COMPLETE, INCOMPLETE, Parser, SpecError, run_command, storage_error
from orchestrator.records import Judgement, Prediction

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


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or any(word.split("=")[0] in ("--judged", "--dataset", "--help", "-h") for word in argv):
        return _score_files(argv)
    return _score_run(argv)


def _score_run(argv: Sequence[str]) -> int:
    """Score what a run folder holds, against the spec that it was made with, or another one's questions and judge."""
    from jobs.cli import parse
    from jobs.report import describe_score, report
    from orchestrator.state import run_root

    command = parse("score", "Score the recorded answers and verdicts of an exam.", argv)
    folder = run_root() / command.spec.run_name
    if not folder.is_dir():
        raise SpecError(f"there is no run folder {folder}. Give run=<folder>, or make it: python -m jobs.evaluate …")
    if command.dry_run:
        return describe_score(folder, command.spec, command.items, as_json=command.as_json)
    return report(folder, command.spec, command.items, as_json=command.as_json)


def _score_files(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    if not (arguments.judged and arguments.dataset):
        raise SpecError("give --judged FILE and --dataset FILE; python -m jobs.score --help shows all arguments")
    figures = score_official(arguments.judged, arguments.dataset, arguments.out)
    if arguments.json:
        print_json(figures)
    else:
        print_figures(figures)
    return COMPLETE if is_complete(figures) else INCOMPLETE


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


def is_complete(figures: Mapping[str, Any]) -> bool:
    """Whether every item has an answer and every answer a verdict."""
    return not (figures["n_failed"] or figures["n_missing"] or figures["n_unjudged"])


def write_metrics(path: Path, figures: Mapping[str, Any]) -> None:
    """Write the figures as indented JSON. Raises StorageFailed."""
    try:
        leaderboard.write_json(path, figures)
    except OSError as error:
        raise storage_error(error, path) from None


def _parser() -> Parser:
    parser = Parser(prog="python -m jobs.score", description=__doc__)
    parser.add_argument("--judged", type=Path, metavar="FILE", help="judged answers in HLE's official schema")
    parser.add_argument("--dataset", metavar="FILE", help="the questions: JSON, JSONL, CSV, Parquet, or a hub name")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where metrics.json and leaderboard/ are written")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _read_items(dataset: str) -> dict[str, hle.Item]:
    try:
        return {item.id: item for item in hle.items_from_rows(read_rows(dataset, columns=hle.COLUMNS))}
    except ValueError as error:
        raise SpecError(f"{dataset}: {error}") from None


def outcome(prediction: Prediction, judgement: Judgement | None) -> metrics.Outcome:
    """What the score needs of a prediction and its verdict. Usage of earlier records may be of any shape."""
    usage = usage_of(prediction.get("usage")) or {"prompt_tokens": 0, "completion_tokens": 0}
    return metrics.Outcome(
        id=prediction["id"],
        sample=prediction["sample"],
        status=prediction["status"],
        verdict=judgement["verdict"] if judgement else None,
        confidence=judgement["confidence"] if judgement else None,
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
    )


class Failures:
    """Counts why answers failed and verdicts are missing, as they pass."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._unjudged: Counter[str] = Counter()
        self._alike: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def counted(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        for prediction, judgement in answers:
            if prediction["status"] == "failed":
                self._add(prediction["reason"] or "unknown", str(prediction.get("detail") or ""))
            elif judgement and judgement["verdict"] == "unjudged":
                self._unjudged[judgement.get("reason") or "no verdict"] += 1
            yield prediction, judgement

    def _add(self, reason: str, detail: str) -> None:
        # Servers put a request's number or address into the same sentence.
        alike = reason, re.sub(r"0x[0-9a-f]+|\b\w*\d\w*", "#", detail)
        self._first.setdefault(alike, detail)
        self._reasons[reason] += 1
        self._alike[alike] += 1

    def figures(self) -> dict[str, Any]:
        """Failed answers and unjudged ones by reason, and the commonest failure with the server's own words."""
        found = self._alike.most_common(1)
        return {
            "failures": dict(self._reasons),
            "commonest_failure": {"count": found[0][1], "reason": found[0][0][0], "detail": self._first[found[0][0]]}
            if found
            else None,
            "unjudged": dict(self._unjudged),
        }


if __name__ == "__main__":
    run_command(main)
