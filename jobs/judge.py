"""Runs the second part of an exam: judges every recorded answer that has no verdict of this judge.

`--predictions FILE --dataset FILE` judges answers from elsewhere, in HLE's official layout: what the official second
half does, resumable, by any judge. The official judged file is then in the folder's exports/.
"""

import sys
from collections.abc import Sequence

from cluster.streams import visible_lines
from jobs.exam import imported
from jobs.exam.command import describe, parse
from orchestrator.errors import SpecError, run_command


def main(argv: Sequence[str] | None = None) -> int:
    argv, served = sys.argv[1:] if argv is None else argv, None
    if imported.is_wanted(argv):
        command, file = imported.parse_import(argv)
        if command.dry_run:
            print(visible_lines(imported.describe_import(command, file)))
            return 0
        imported.import_predictions(command, file)
        served = imported.unknown_source(command.spec)
    else:
        command = parse("judge", imported.PURPOSE, argv)
        if command.dry_run:
            print(describe(command))
            return 0
    from jobs.exam.report import report
    from jobs.exam.run import ask_and_judge, find_judge, open_run
    from orchestrator.records.writer_client import call

    with open_run(command.spec, command.items, served) as run:
        if len(run.todo) == run.n_wanted:
            raise SpecError(f"{run.folder} holds no answer to judge. Check run=, or ask first: python -m jobs.predict")
        call(run.writer.abandon)  # what is not predicted yet is another job's matter
        ask_and_judge(run, None, find_judge(run))
    return report(run.folder, command.spec, command.items, as_json=command.as_json)


if __name__ == "__main__":
    run_command(main)
