"""The batch job while it runs: what its parts share, and the reasons for its end."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType

from cluster.errors import INTERRUPTED, ClusterError
from cluster.folder.cluster_folder import ClusterFolder
from cluster.folder.ledger import End
from cluster.folder.reports import node_reports
from cluster.folder.request import Request
from cluster.schedulers.base import Allocation, Scheduler, Step, scheduler_of
from cluster.state import ClusterState, read_state, token_path

EARLY = 60  # seconds that a scheduler may send the signal of the walltime before its time


class Ended(Exception):
    """The cluster's end has come."""

    def __init__(self, why: End, code: int, problem: str | None = None) -> None:
        super().__init__(problem or why)
        self.why, self.code, self.problem = why, code, problem


class BatchJob:
    """Request, hosts, steps and files of one batch job, and the signals that it got."""

    def __init__(self, cluster: ClusterFolder, request: Request, scheduler: Scheduler, allocation: Allocation) -> None:
        self.cluster, self.request, self.scheduler = cluster, request, scheduler
        self.name, self.job_id, self.hosts = cluster.name, allocation.job_id, allocation.hosts
        self.folder = cluster.job(self.job_id)
        self.token = token_path(self.name)
        self.events = cluster.event_log(self.job_id)
        self.steps: list[Step] = []
        self.head: Step | None = None
        self._signals: list[int] = []

    def hear_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._note_signal)

    def pause(self, seconds: float = 0.2) -> None:
        """Wait a little, unless there is a reason to stop: a signal, or the head's end. Raises Ended."""
        time.sleep(seconds)
        if self._signals:
            raise self._reason_of_signal(self._signals[0])
        if self.head and self.head.poll() is not None:
            raise Ended("failed", ClusterError.exit_code, self._head_problem())

    def start_step(self, hosts: list[str], module: str, *role: str) -> Step:
        arguments = [*role, self.name, self.job_id]
        gpus = self.request.site.gpus_per_node
        step = self.scheduler.step(hosts, module, arguments, folder=self.folder, gpus=gpus)
        self.steps.append(step)
        return step

    def own_state(self) -> ClusterState | None:
        """The cluster's state, where it is still this job's."""
        state = read_state(self.name)
        return state if state and state.job_id == self.job_id else None

    def _head_problem(self) -> str:
        report = node_reports(self.folder).get(self.hosts[0], {})
        return f"the head on {self.hosts[0]} ended: {report.get('problem') or 'its step is gone'}"

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _reason_of_signal(self, number: int) -> Ended:
        """USR2 is our own early notice of the walltime. TERM is that too on sites that send nothing else, and the
        scheduler's last signal at the limit; else it is `down`, which says so beforehand, or a cancellation."""
        if number == signal.SIGUSR2 or (number == signal.SIGTERM and self._walltime_is_near()):
            return Ended("walltime", INTERRUPTED, "the walltime is over")
        return Ended("down", INTERRUPTED if self.request.mode == "run" else 0)

    def _walltime_is_near(self) -> bool:
        state = self.own_state()
        if state and state.phase == "stopping":
            return False
        with suppress(ClusterError):
            job = self.scheduler.job(self.job_id)
            if job and not job.running:  # the scheduler ended it already: for its time limit, or cancelled
                return job.over_time
            left = job.seconds_left if job else None
            return left is not None and left <= self.request.site.grace + EARLY
        return False


def batch_job(name: str) -> BatchJob:
    """The job of cluster `name` in which this process runs the batch script."""
    cluster = ClusterFolder(name)
    request = cluster.request()
    scheduler = scheduler_of(request.site.scheduler)
    allocation = scheduler.allocation(os.environ)
    cluster.job(allocation.job_id).mkdir(mode=0o700, parents=True, exist_ok=True)
    return BatchJob(cluster, request, scheduler, allocation)
