"""Ray's job API, with the cluster found, its token set, and a deadline on everything that is waited for."""

import importlib
import logging
import shlex
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from aiohttp import ClientError
from ray.job_submission import JobDetails, JobSubmissionClient

from cluster.files import REPOSITORY
from orchestrator.errors import ClusterNotReady, KosenError, SpecError
from orchestrator.ray_cluster.connect import NOT_CODE, find

T = TypeVar("T")

# Ray's client reports every package that it makes, and every log that it has followed to its end.
TALKATIVE = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
AGENT_SECONDS = 60.0  # the job agent comes up after the dashboard; submissions before that are refused
STOP_SECONDS = 120.0
LOST = (RuntimeError, OSError, ClientError)  # what following a log raises when the cluster goes away


def job_client(*, start: bool) -> JobSubmissionClient:
    """For the running cluster; `start`: where there is none, a local one is started that stays."""
    url = find(start=start).dashboard_url
    client = _retry(lambda: JobSubmissionClient(url))
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    return client


def check_job(job: str) -> None:
    """Raises SpecError unless jobs/ names it as one of its entry points."""
    known: tuple[str, ...] = importlib.import_module("jobs").ENTRY_POINTS  # by name: orchestrator imports no job
    if job not in known:
        raise SpecError(f"there is no job {job}. Known are {', '.join(known)}")


def submit_job(client: JobSubmissionClient, job: str, arguments: list[str], *, parent: str | None = None) -> str:
    """Run `python -m jobs.<job>` on the cluster; its submission id.

    `parent`: the job that will submit this one again if the cluster is lost; without it a successor does.
    """
    entrypoint = f"{shlex.quote(sys.executable)} -m jobs.{job} {shlex.join(arguments)}".strip()
    runtime_env = {"working_dir": str(REPOSITORY), "excludes": NOT_CODE}
    # A successor runs the job again in the same working directory.
    metadata = {"parent": parent} if parent else {"working_dir": str(REPOSITORY)}
    try:
        return _retry(lambda: client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, metadata=metadata))
    except ValueError as error:  # the working directory is too large to travel
        raise SpecError(f"{REPOSITORY} cannot be sent to the cluster: {error}") from None


def job_details(client: JobSubmissionClient, job_id: str) -> JobDetails:
    """Raises SpecError for an id that the cluster does not know."""
    try:
        return client.get_job_info(job_id)
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            raise SpecError(f"there is no job {job_id!r} on this cluster. make jobs lists them") from None
        raise ClusterNotReady(f"the cluster's job API failed: {error}") from None
    except OSError as error:  # nothing listens any more
        raise ClusterNotReady(f"the cluster was taken down, or does not answer: {error}") from None


def wait_for_end(client: JobSubmissionClient, job_id: str, seconds: float = STOP_SECONDS) -> JobDetails:
    """The log ends a moment before the job's state says so."""
    deadline = time.monotonic() + seconds
    while not (details := job_details(client, job_id)).status.is_terminal():
        if time.monotonic() > deadline:
            raise KosenError(f"job {job_id} is still {details.status} after {seconds:.0f} s")
        time.sleep(0.2)
    return details


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
