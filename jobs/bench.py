"""Measures a cluster: every GPU, the links between them, training at growing size.

python -m jobs.bench [--config conf/bench.yaml] [--dry-run] [--json] key=value …
python -m jobs.bench report RESULTS_FOLDER [--json]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.benchmarking.run import bench, describe, report
from jobs.benchmarking.spec import BenchSpec
from orchestrator.errors import COMPLETE, INCOMPLETE, Parser, SpecError, run_command
from orchestrator.ray_cluster.find import run_root
from orchestrator.spec import load_spec

PURPOSE = "Measure a cluster; `report FOLDER` regenerates the report."


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["report"]:
        return _report_again(arguments[1:])
    parser = Parser(prog="python -m jobs.bench", description=PURPOSE)
    parser.add_argument("--config", type=Path, metavar="FILE", help="the spec: conf/bench.yaml is one")
    parser.add_argument("--dry-run", action="store_true", help="show what would be measured where, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on standard output")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the spec to change")
    args = parser.parse_intermixed_args(arguments)
    spec = load_spec(BenchSpec, args.config, args.overrides)
    if args.dry_run:
        print(describe(spec))
        return COMPLETE
    return bench(spec, as_json=args.json)


def _report_again(arguments: Sequence[str]) -> int:
    parser = Parser(prog="python -m jobs.bench report", description="Regenerate the report of a results folder.")
    parser.add_argument("folder", type=Path, metavar="RESULTS_FOLDER", help="a path, or the name of a run")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on standard output")
    args = parser.parse_args(arguments)
    folder = args.folder if args.folder.is_dir() else run_root() / args.folder
    if not folder.is_dir():
        raise SpecError(f"there is no results folder {folder}. Give the path that the benchmark printed")
    return INCOMPLETE if report(folder, as_json=args.json).problems else COMPLETE


if __name__ == "__main__":
    run_command(main)
