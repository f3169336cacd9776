"""The folder of one cluster, ~/.kosen/clusters/<name>: where its files lie, and how they are read and written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.files import json_lines, locked, publish, read_published
from cluster.folder.events import EventLog
from cluster.folder.ledger import Ledger
from cluster.folder.request import Request, load_request, save_request
from cluster.state import cluster_dir


class ClusterFolder:
    """What commands, batch jobs and nodes leave one another. What jobs read too is cluster.state's: state and token."""

    def __init__(self, name: str) -> None:
        self.name, self.path = name, cluster_dir(name)
        self.logs = self.path / "logs"
        self._events, self._helpers = self.path / "events.jsonl", self.path / "helpers.json"

    @contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        """One command at a time starts, heals or ends it. Raises ClusterError when another does for `seconds`."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path / "lock"
        with locked(path, seconds, ClusterError(f"another command holds {path} for too long")):
            yield

    def job(self, job_id: str) -> Path:
        """Logs and published files of one scheduler job, on the shared file system."""
        return self.logs / job_id

    def batch_log(self, job_id: str) -> Path:
        """What the batch script prints. Beside the job's folder, because the scheduler opens it before that exists."""
        return self.logs / f"{job_id}.log"

    def request(self) -> Request:
        return load_request(self.path / "request.json")

    def save_request(self, request: Request) -> None:
        save_request(self.path / "request.json", request)

    def ledger(self, job_id: str = "") -> Ledger:
        """`job_id` is the batch job for which one writes."""
        return Ledger(self.path / "ledger.jsonl", job_id)

    def event_log(self, job_id: str) -> EventLog:
        return EventLog(self._events, job_id)

    def events(self) -> list[dict[str, Any]]:
        """What happened, oldest first."""
        return json_lines(self._events)

    def helpers(self) -> list[str]:
        """The jobs that `up --heal` asked the scheduler for, oldest first; some may have ended."""
        jobs = (read_published(self._helpers) or {}).get("jobs")
        return [job_id for job_id in jobs if isinstance(job_id, str)] if isinstance(jobs, list) else []

    def add_helper(self, job_id: str) -> None:
        """Note a job of `up --heal`, which holds the cluster's lock. The state file has the batch job as its writer."""
        publish(self._helpers, {"jobs": [*self.helpers(), job_id]})
