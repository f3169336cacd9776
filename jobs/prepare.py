"""Makes training data: GSM8K, or rows of your own, as the Parquet files that verl's SFT and PPO read.

Tasks: gsm8k (both, and an exam of its test split, into a folder), sft (conversations, into a file), rl (questions and
answers, into a file).
"""

from collections.abc import Sequence
from pathlib import Path

from jobs.tasks.preparing import TASKS
from orchestrator import secrets
from orchestrator.console import say
from orchestrator.errors import Parser, SpecError, run_command
from orchestrator.spec import load_spec
from orchestrator.training.data.prepare import describe


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.prepare", description=__doc__)
    parser.add_argument("task", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--config", type=Path, metavar="FILE", help="a spec with the keys below")
    parser.add_argument("--dry-run", action="store_true", help="show what would be read and written, and do nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="out=, source=, tokenizer=, max_length=, …")
    args = parser.parse_intermixed_args(argv)
    if args.task not in TASKS:
        raise SpecError(f"there is no task {args.task!r}. Expected one of {', '.join(TASKS)}")
    spec = load_spec(TASKS[args.task], args.config, args.overrides)
    if args.dry_run:
        for line in describe(spec):
            print(line)
        return 0
    steps = spec.steps()
    secrets.load_into_environment()
    for step in steps:
        say(f"{step.out}: {step.convert(step.out).sentence()}")
    return 0


if __name__ == "__main__":
    run_command(main)
