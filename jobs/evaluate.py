"""Runs an exam end to end: predict, judge while answers arrive, score, write the leaderboard folder."""

from collections.abc import Sequence
from pathlib import Path

from jobs.exam.command import Command, describe, parse
from orchestrator.errors import run_command


def main(argv: Sequence[str] | None = None) -> int:
    command = parse("evaluate", "Predict, judge and score an exam.", argv)
    if command.dry_run:
        print(describe(command))
        return 0
    from jobs.exam.report import report

    folder = _run(command)
    return report(folder, command.spec, command.items, as_json=command.as_json)


def _run(command: Command) -> Path:
    from jobs.exam.run import ask_and_judge, find_endpoint, find_judge, open_run

    with open_run(command.spec, command.items) as run:
        judging = find_judge(run)
        ask_and_judge(run, find_endpoint(run) if run.todo else None, judging)
        return run.folder


if __name__ == "__main__":
    run_command(main)
