"""What the demos are made of: python -m jobs.demo model|exam|sums --out PATH, and explain FOLDER."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.demo.exam import EXAM, write_exam
from jobs.demo.model import make_start
from jobs.demo.sums import explain, write_task
from orchestrator.errors import Parser, run_command, storage_error

MADE: dict[str, tuple[Callable[[Path], object], str]] = {
    "model": (make_start, "the demo's untrained model and its training rows, in the subfolder made/"),
    "sums": (write_task, "the untrained model, the data and the exam of `make demo-rl`"),
    "exam": (write_exam, f"the demo's exam as JSON lines in HLE's row schema, as {EXAM.name} has it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, purpose) in MADE.items():
        commands.add_parser(name, help=purpose).add_argument("--out", type=Path, required=True)
    said = commands.add_parser("explain", help="say why the score of a finished `make demo-rl` rose")
    said.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    if args.command == "explain":
        print(explain(args.folder))
        return 0
    out = args.out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        MADE[args.command][0](out)
    except OSError as error:
        raise storage_error(error, out) from None
    print(out)
    return 0


if __name__ == "__main__":
    run_command(main)
