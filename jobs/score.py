"""Scores an exam: a run folder (`--config FILE key=value …`), or files in HLE's official layouts from elsewhere:

    python -m jobs.score --judged FILE --dataset FILE --out DIR --json

Neither needs a cluster, and the second not even Ray. Exit codes: 0 where everything asked has an answer and a verdict,
3 where something has not, 2 where a file is not what it should be.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.streams import print_json
from jobs.exam import leaderboard
from jobs.exam.figures import Failures, is_complete, outcome, write_metrics
from jobs.exam.official_files import read_official
from jobs.exam.show import print_figures
from jobs.tasks.registry import DEFAULT_TASK, find_task
from jobs.tasks.task import Item, Results, Task
from orchestrator.data.source import read_rows
from orchestrator.errors import COMPLETE, INCOMPLETE, Parser, SpecError, run_command

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
    from jobs.exam.command import parse
    from jobs.exam.report import describe_score, report
    from orchestrator.ray_cluster.find import run_root

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
    figures = score_official(arguments.judged, arguments.dataset, arguments.out, arguments.task)
    if arguments.json:
        print_json(figures)
    else:
        print_figures(figures)
    return COMPLETE if is_complete(figures) else INCOMPLETE


def score_official(judged: Path, dataset: str, out: Path | None = None, named: str = DEFAULT_TASK) -> dict[str, Any]:
    """Score a judged file in HLE's official schema over all rows of `dataset`, those of FIRST_FIGURES first.

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


def _parser() -> Parser:
    parser = Parser(prog="python -m jobs.score", description=__doc__)
    parser.add_argument("--judged", type=Path, metavar="FILE", help="judged answers in HLE's official schema")
    parser.add_argument("--dataset", metavar="FILE", help="the questions: JSON, JSONL, CSV, Parquet, or a hub name")
    parser.add_argument("--task", default=DEFAULT_TASK, help="the exam: a name or a task's file; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where metrics.json and leaderboard/ are written")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _read_items(task: Task, dataset: str) -> dict[str, Item]:
    try:
        return {item.id: item for item in task.items(read_rows(dataset, columns=task.columns))}
    except ValueError as error:
        raise SpecError(f"{dataset}: {error}") from None


if __name__ == "__main__":
    run_command(main)
