"""Ray Jobs for people: submit, list, follow and stop, with the cluster's address and token found for them.

python -m orchestrator.submit submit evaluate --config conf/hle.yaml max_samples=20
python -m orchestrator.submit list | logs ID | stop ID
"""

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from orchestrator.cluster import find
from orchestrator.errors import INTERRUPTED, ClusterNotReady, KosenError, Parser, SpecError, run_command

T = TypeVar("T")

AGENT_SECONDS = 60.0  # the job agent comes up after the dashboard; submissions before that are refused
STOP_SECONDS = 120.0
# Ray packs the working directory: code and specs travel, results and environments do not.
EXCLUDES = [".git", ".venv", "runs", "wandb", "tests", "**/__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m orchestrator.submit", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit", help="run a job on the cluster and follow it")
    submit.add_argument("--no-wait", action="store_true", help="print the job's id and return")
    submit.add_argument("job", help="a module of jobs/, for example evaluate")
    submit.add_argument("arguments", nargs="...", help="its arguments")
    commands.add_parser("list", help="all jobs of the cluster")
    for name, purpose in (("logs", "print and follow a job's output"), ("stop", "stop a job")):
        commands.add_parser(name, help=purpose).add_argument("id")
    args = parser.parse_args(argv)
    if args.command == "submit":
        return _submit(args.job, args.arguments, wait=not args.no_wait)
    client = _client(start=False)
    if args.command == "list":
        _print_jobs(client.list_jobs())
        return 0
    return _logs(client, args.id) if args.command == "logs" else _stop(client, args.id)


def _submit(job: str, arguments: list[str], *, wait: bool) -> int:
    root = Path(__file__).resolve().parent.parent
    if not (root / "jobs" / f"{job}.py").exists():
        known = sorted(path.stem for path in (root / "jobs").glob("*.py") if "run_command" in path.read_text())
        raise SpecError(f"there is no job {job}. Known are {', '.join(known)}")
    client = _client(start=True)
    entrypoint = f"{shlex.quote(sys.executable)} -m jobs.{job} {shlex.join(arguments)}".strip()
    runtime_env = {"working_dir": str(root), "excludes": EXCLUDES}
    metadata = {"working_dir": str(root)}  # where the successor of a cluster runs the job again
    try:
        job_id = _retry(lambda: client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, metadata=metadata))
    except ValueError as error:  # the working directory is too large to travel
        raise SpecError(f"{root} cannot be sent to the cluster: {error}") from None
    print(f"submitted {job_id}", file=sys.stderr)
    if not wait:
        print(job_id)
        return 0
    try:
        return _logs(client, job_id)
    except KeyboardInterrupt:
        print(f"no longer following; the job goes on. make logs ID={job_id}, make stop ID={job_id}", file=sys.stderr)
        return INTERRUPTED


def _client(*, start: bool) -> JobSubmissionClient:
    url = find(start=start)["dashboard_url"]
    return _retry(lambda: JobSubmissionClient(url))


def _retry(call: Callable[[], T]) -> T:
    """Until the job agent answers; Ray reports its absence as RuntimeError (HTTP 500) or ConnectionError."""
    deadline = time.monotonic() + AGENT_SECONDS
    while True:
        try:
            return call()
        except (RuntimeError, ConnectionError) as error:
            if time.monotonic() > deadline:
                raise ClusterNotReady(f"the cluster does not take jobs: {error}") from None
            time.sleep(0.5)


def _logs(client: JobSubmissionClient, job_id: str) -> int:
    """Print what the job printed, follow it to its end, and return its own exit code."""
    _info(client, job_id)

    async def follow() -> None:
        async for chunk in client.tail_job_logs(job_id):
            print(chunk, end="", flush=True)

    try:
        asyncio.run(follow())
    except (RuntimeError, OSError) as error:
        raise ClusterNotReady(f"lost the log of job {job_id}: {error}. make logs ID={job_id} tries again") from None
    details = _wait_for_end(client, job_id)
    if details.driver_exit_code is not None:
        return int(details.driver_exit_code)
    if details.status == JobStatus.STOPPED:
        return INTERRUPTED
    raise KosenError(f"job {job_id} ended {details.status} without an exit code: {details.message}")


def _wait_for_end(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """The log ends a moment before the job's state says so."""
    deadline = time.monotonic() + STOP_SECONDS
    while not (details := _info(client, job_id)).status.is_terminal():
        if time.monotonic() > deadline:
            raise KosenError(f"job {job_id} is still {details.status} after {STOP_SECONDS:.0f} s")
        time.sleep(0.2)
    return details


def _stop(client: JobSubmissionClient, job_id: str) -> int:
    if _info(client, job_id).status.is_terminal():
        print(f"{job_id} has ended already: {_info(client, job_id).status}")
        return 0
    client.stop_job(job_id)
    print(f"{job_id}: {_wait_for_end(client, job_id).status}. The same submission goes on where it stopped")
    return 0


def _info(client: JobSubmissionClient, job_id: str) -> JobDetails:
    try:
        return client.get_job_info(job_id)
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            raise SpecError(f"there is no job {job_id!r} on this cluster. make jobs lists them") from None
        raise ClusterNotReady(f"the cluster's job API failed: {error}") from None


def _print_jobs(jobs: list[JobDetails]) -> None:
    print(f"{'id':<28} {'status':<10} {'exit':>4}  {'started':<19}  command")
    for job in sorted(jobs, key=lambda job: job.start_time or 0, reverse=True):
        if job.submission_id:
            started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime((job.start_time or 0) / 1000))
            code = "" if job.driver_exit_code is None else str(job.driver_exit_code)
            print(f"{job.submission_id:<28} {job.status!s:<10} {code:>4}  {started}  {_shorten(job.entrypoint)}")


def _shorten(entrypoint: str) -> str:
    """Without the interpreter's path, which says nothing."""
    _, module, rest = entrypoint.partition(" -m ")
    return (module + rest).strip() or entrypoint


if __name__ == "__main__":
    run_command(main)
