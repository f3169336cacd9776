"""Runs the first part of an exam: asks every question that has no answer yet, records every answer at once."""

from collections.abc import Sequence

from jobs.exam.command import describe, parse
from orchestrator.errors import run_command


def main(argv: Sequence[str] | None = None) -> int:
    command = parse("predict", "Ask the questions of an exam.", argv)
    if command.dry_run:
        print(describe(command))
        return 0
    from jobs.exam.report import report_predictions
    from jobs.exam.run import ask_and_judge, find_endpoint, open_run

    with open_run(command.spec, command.items) as run:
        if run.todo:
            ask_and_judge(run, find_endpoint(run), None)
    return report_predictions(run.folder, command.spec, command.items, as_json=command.as_json)


if __name__ == "__main__":
    run_command(main)
