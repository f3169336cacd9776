"""Fetches what a spec needs of the hub, models and data, where there is internet, for compute nodes without it."""

from collections.abc import Sequence

from jobs.prefetching.hub import fetch
from jobs.prefetching.needs import JOBS, add_spec, job_of
from orchestrator import secrets
from orchestrator.console import say
from orchestrator.errors import Parser, SpecError, run_command


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.prefetch", description=__doc__)
    parser.add_argument(
        "--job", metavar="JOB", help=f"what the spec is for: {', '.join(JOBS)}; default: as its keys say"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be fetched, and do nothing")
    add_spec(parser)
    args = parser.parse_intermixed_args(argv)
    job = args.job or job_of(args.config, args.overrides)
    if job not in JOBS:
        raise SpecError(f"--job {job} does not read from the hub. Expected one of {', '.join(JOBS)}")
    secrets.load_into_environment()
    for need in dict.fromkeys(JOBS[job](args.config, args.overrides)):
        print(f"{need}: {'on the hub' if args.dry_run and not need.is_local else fetch(need)}", flush=True)
    if not args.dry_run:
        say("The jobs find it without internet: set HF_HUB_OFFLINE=1 there, and the same HF_HOME as here")
    return 0


if __name__ == "__main__":
    run_command(main)
