"""Scores an exam: a run folder (`--config FILE key=value …`), or files in HLE's official layouts from elsewhere:

    python -m jobs.score --judged FILE --dataset FILE --out DIR --json

Neither needs a cluster, and the second not even Ray. Exit codes: 0 where everything asked has an answer and a verdict,
3 where something has not, 2 where a file is not what it should be.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.streams import print_json
from jobs.exam.figures import is_complete
from jobs.exam.official_score import score_official
from jobs.exam.show import print_figures
from jobs.tasks.registry import DEFAULT_TASK
from orchestrator.errors import COMPLETE, INCOMPLETE, Parser, SpecError, run_command


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
    parser = Parser(prog="python -m jobs.score", description=__doc__)
    parser.add_argument("--judged", type=Path, metavar="FILE", help="judged answers in HLE's official schema")
    parser.add_argument("--dataset", metavar="FILE", help="the questions: JSON, JSONL, CSV, Parquet, or a hub name")
    parser.add_argument("--task", default=DEFAULT_TASK, help="the exam: a name or a task's file; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where metrics.json and leaderboard/ are written")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args(argv)
    if not (arguments.judged and arguments.dataset):
        raise SpecError("give --judged FILE and --dataset FILE; python -m jobs.score --help shows all arguments")
    figures = score_official(arguments.judged, arguments.dataset, arguments.out, arguments.task)
    (print_json if arguments.json else print_figures)(figures)
    return COMPLETE if is_complete(figures) else INCOMPLETE


if __name__ == "__main__":
    run_command(main)
