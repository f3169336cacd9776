"""Where a batch job's files lie in its cluster's folder, and which jobs were added to it."""

from pathlib import Path

from cluster.files import publish, read_published
from cluster.state import cluster_dir


def job_dir(name: str, job_id: str) -> Path:
    """Logs and published files of one scheduler job, on the shared file system."""
    return cluster_dir(name) / "logs" / job_id


def batch_log(name: str, job_id: str) -> Path:
    """What the batch script prints. Beside the job's folder, because the scheduler opens it before that exists."""
    return cluster_dir(name) / "logs" / f"{job_id}.log"


def helpers(name: str) -> list[str]:
    """The jobs that `up --heal` asked the scheduler for, oldest first; some may have ended."""
    jobs = (read_published(_helpers_path(name)) or {}).get("jobs")
    return [job_id for job_id in jobs if isinstance(job_id, str)] if isinstance(jobs, list) else []


def add_helper(name: str, job_id: str) -> None:
    """Note a job of `up --heal`, which holds the cluster's lock. The state file has the batch job as its writer."""
    publish(_helpers_path(name), {"jobs": [*helpers(name), job_id]})


def _helpers_path(name: str) -> Path:
    return cluster_dir(name) / "helpers.json"
