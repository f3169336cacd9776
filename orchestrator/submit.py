"""Ray Jobs for people: submit, list, follow and stop, with the cluster's address and token found for them.

python -m orchestrator.submit submit evaluate --config conf/hle.yaml max_samples=20
python -m orchestrator.submit list | logs ID | stop ID
"""

import asyncio
import sys
import time
from collections.abc import Sequence

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from orchestrator.errors import COMPLETE, INCOMPLETE, INTERRUPTED, ClusterNotReady, KosenError, Parser, run_command
from orchestrator.ray_cluster.jobs_api import LOST, check_job, job_client, job_details, submit_job, wait_for_end
from orchestrator.ray_cluster.printed_log import PrintedLog
from orchestrator.spec import check_argument


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
    client = job_client(start=False)
    if args.command == "list":
        _print_jobs(client.list_jobs())
        return 0
    return _logs(client, args.id) if args.command == "logs" else _stop(client, args.id)


def _submit(job: str, arguments: list[str], *, wait: bool) -> int:
    check_job(job)
    for argument in arguments:
        check_argument(argument)  # the cluster's list of jobs shows them
    client = job_client(start=True)
    job_id = submit_job(client, job, arguments)
    print(f"submitted {job_id}", file=sys.stderr)
    if not wait:
        print(job_id)
        return 0
    try:
        return _logs(client, job_id)
    except KeyboardInterrupt:
        print(
            f"no longer following; the job keeps running: make logs ID={job_id}, make stop ID={job_id}", file=sys.stderr
        )
        return INTERRUPTED


def _logs(client: JobSubmissionClient, job_id: str) -> int:
    """Print what the job printed, follow it to its end, and return its own exit code.

    Whichever of the job, its log and the dashboard goes away first, why it ended is reported once.
    """
    log = PrintedLog()
    try:
        return _follow(client, job_id, log)
    except KosenError as error:
        if log.says_error:
            return error.exit_code
        raise


def _follow(client: JobSubmissionClient, job_id: str, log: PrintedLog) -> int:
    job_details(client, job_id)

    async def tail() -> None:
        async for chunk in client.tail_job_logs(job_id):
            log.add(chunk)

    try:
        asyncio.run(tail())
    except LOST as error:
        raise ClusterNotReady(f"lost the log of job {job_id}: {error}. make logs ID={job_id} tries again") from None
    details = wait_for_end(client, job_id)
    log.add_last_lines(details)
    if details.driver_exit_code is None:
        if details.status == JobStatus.STOPPED:
            return INTERRUPTED
        raise KosenError(f"job {job_id} ended {details.status} without an exit code: {details.message}")
    code = int(details.driver_exit_code)
    if code not in (COMPLETE, INCOMPLETE, INTERRUPTED) and not log.says_error:
        print(f"error: job {job_id} ended with exit code {code} and did not say why", file=sys.stderr)
    return code


def _stop(client: JobSubmissionClient, job_id: str) -> int:
    if job_details(client, job_id).status.is_terminal():
        print(f"{job_id} has ended already: {job_details(client, job_id).status}")
        return 0
    client.stop_job(job_id)
    print(f"{job_id}: {wait_for_end(client, job_id).status}. The same submission resumes where it stopped")
    return 0


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
