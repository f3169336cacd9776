"""Runs the jobs of a pipeline one after the other, each as a Ray Job with its own folder; finished ones are skipped."""

from collections.abc import Sequence
from pathlib import Path

from jobs.exam.step_cells import describe
from orchestrator.errors import COMPLETE, Parser, run_command
from orchestrator.pipelines.plan import PipelineSpec, plan, read_progress
from orchestrator.pipelines.run import run
from orchestrator.pipelines.table import print_steps
from orchestrator.ray_cluster.find import run_root
from orchestrator.ray_cluster.jobs_api import check_job
from orchestrator.spec import load_spec


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.pipeline", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", required=True, help="such as conf/pipelines/gsm8k.yaml")
    parser.add_argument("--dry-run", action="store_true", help="show the steps and where each stands, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the table as JSON on standard output")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args(argv)
    spec = load_spec(PipelineSpec, args.config, args.overrides)
    for step in spec.steps.values():
        check_job(step.job)
    if args.dry_run:
        steps = plan(spec, run_root() / spec.run)
        print_steps(steps, {step.name: read_progress(step) for step in steps}, describe, as_json=args.json)
        return COMPLETE
    return run(spec, describe, as_json=args.json)


if __name__ == "__main__":
    run_command(main)
