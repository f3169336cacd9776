"""A cluster in a scheduler's queue, from the login node: submit, wait and show for what, follow, take down."""

import dataclasses
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cluster.commands.tunnel import tunnel_lines
from cluster.errors import ClusterError, PreflightFailed, ProfileError
from cluster.folder.cluster_folder import ClusterFolder
from cluster.folder.reports import node_reports
from cluster.folder.request import Request
from cluster.machine.logs import tail
from cluster.profile import THIS_MACHINE
from cluster.schedulers.base import Job, Observer, Scheduler, ask_briefly
from cluster.schedulers.script import write_dry_run, write_script
from cluster.state import UP, ClusterState, forget, read_state, write_state, write_token

QUEUE_TIMEOUT = 1800.0  # seconds that `up` watches a queue; the job stays in it
END_TIMEOUT = 90.0  # seconds for a job to stop when asked; then it is cancelled, which its scheduler enforces
END_PATIENCE = 180.0  # seconds that a job may take from its processes' end to its own; some nodes' epilogs are slow
LOCK_TIMEOUT = 120.0  # seconds; another `up` holds the lock for a few commands of the scheduler, each of 30 at most
POLL = 0.5  # seconds between polls of the state file; the scheduler is asked every QUEUE_POLL
QUEUE_POLL = 5.0


class BatchSystem:
    """The commands of a cluster that lives in batch jobs of `scheduler`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def check(self, request: Request) -> None:
        """Any number of nodes may be asked for."""

    def dry_run(self, request: Request, say: Callable[[str], None]) -> str:
        """The batch script that `up` would submit; it and the profile are written beside the cluster's files."""
        script, profile = write_dry_run(request)
        say(f"wrote {script} and {profile}; nothing was submitted")
        return script.read_text(encoding="utf-8")

    def up(self, request: Request, *, ephemeral: bool, say: Callable[[str], None]) -> ClusterState:
        state = self.start(request, say)
        return self.wait_ready(request.name, str(state.job_id), say)

    def run(self, request: Request, *, wait: bool, say: Callable[[str], None]) -> int:
        """The command's exit code; without `wait` the job's id on standard output, and 0."""
        state = self.start(request, say)
        if wait:
            return self.follow(request.name, str(state.job_id), say)
        print(state.job_id)
        return 0

    def preflight(self, request: Request, say: Callable[[str], None]) -> int:
        return self.follow(request.name, str(self.start(request, say).job_id), say)

    def login_host(self, name: str) -> str | None:
        return ClusterFolder(name).request().site.login_host

    def describe(self, state: ClusterState) -> list[str]:
        """How to use a cluster that is ready, one line each."""
        gpus = sum(node.gpus for node in state.nodes)
        what = f"{len(state.nodes)} nodes, {gpus} GPUs, Ray at {state.ray_address}"
        return [
            f"cluster {state.name!r} is {state.phase}: {what}",
            *([f"  {state.problem}"] if state.problem else []),
            f"dashboard  {state.dashboard_url} (inside the cluster's network)",
            *tunnel_lines(state, self.login_host(state.name)),
            "submit     make submit JOB=evaluate CONFIG=conf/hle.yaml    "
            f"(KOSEN_CLUSTER={state.name} where several run)",
            f'or plainly eval "$(python -m cluster env --name {state.name})"',
            "           ray job submit --working-dir . -- python -m jobs.evaluate --config conf/hle.yaml",
            f"logs       {ClusterFolder(state.name).job(str(state.job_id))}",
        ]

    def start(self, request: Request, say: Callable[[str], None]) -> ClusterState:
        """Submit a cluster, unless one of this name queues or runs already; its state.

        Several at once: one submits, the others find its cluster.
        """
        folder = ClusterFolder(request.name)
        with folder.locked(LOCK_TIMEOUT):
            return self._start(folder, request, say)

    def _start(self, folder: ClusterFolder, request: Request, say: Callable[[str], None]) -> ClusterState:
        state = self._running(folder, read_state(request.name))
        if state and state.phase != "failed":
            if request.mode != "up":
                raise ProfileError(
                    f"there is a cluster {request.name!r} already (job {state.job_id}). Choose another NAME="
                )
            say(f"cluster {request.name!r} is there already: job {state.job_id}, {state.phase}")
            return state
        state = read_state(request.name)
        if state and state.scheduler == THIS_MACHINE:
            raise ProfileError(f"{request.name!r} is the name of a local cluster. Choose another NAME=")
        self._scheduler.check(request)
        forget(request.name)
        script = write_script(request)
        write_token(request.name, secrets.token_hex(32))
        folder.logs.mkdir(mode=0o700, exist_ok=True)
        job_id = self._scheduler.submit(script)
        state = ClusterState(
            name=request.name,
            phase="queued",
            scheduler=self._scheduler.name,
            job_id=job_id,
            nodes=[],
            ray_address="",
            dashboard_url="",
            ports={},
            run_root=request.run_root,
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            site=request.site_name,
            expected_nodes=request.nodes,
        )
        if read_state(request.name) is None:  # the job may be faster than this line
            write_state(state)
        say(f"submitted job {job_id}: {request.nodes} node(s), log {folder.batch_log(job_id)}")
        return state

    def _running(self, folder: ClusterFolder, state: ClusterState | None) -> ClusterState | None:
        """A cluster as its live batch job has it; None without one.

        Where a lost node ended the job without a trace, the job is its successor, which waits.
        """
        if state is None or state.job_id is None or self._is_live(state.job_id):
            return state if state and state.job_id else None
        successor = folder.ledger().successor()
        if successor and self._is_live(successor):
            return dataclasses.replace(state, phase="queued", job_id=successor, nodes=[], problem=None)
        return None

    def wait_ready(self, name: str, job_id: str, say: Callable[[str], None]) -> ClusterState:
        """Wait until the cluster is ready, saying what it waits for. Raises ClusterError with why it never will be."""
        said, folder = "", ClusterFolder(name)
        began = time.monotonic()
        deadline = began + QUEUE_TIMEOUT
        observer = Observer(self._scheduler)
        asked, job = -QUEUE_POLL, None
        while True:
            state = read_state(name)
            if state and state.job_id == job_id and state.phase in UP:
                return state
            if time.monotonic() - asked > QUEUE_POLL:
                asked, job = time.monotonic(), observer.poll(job_id)
                self._raise_ended(folder, job_id, job)
                raise_stuck(self._scheduler, job, lambda: forget(name))
            line = _progress(folder, job_id, job, state)
            if line != said:
                say(said := line)
            if job and job.running:
                deadline = max(deadline, time.monotonic() + 60)  # the batch job has its own deadline
            if job and job.ending:
                deadline = min(deadline, time.monotonic() + END_PATIENCE)
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the cluster is not ready after {(time.monotonic() - began) / 60:.0f} minutes: job {job_id} is "
                    f"{job.state if job else 'unknown'} ({line}), and is left as it is. "
                    f"See make cluster-status NAME={name}, or cancel it with make cluster-down NAME={name}"
                )
            time.sleep(POLL)

    def _raise_ended(self, folder: ClusterFolder, job_id: str, job: Job | None) -> None:
        if job and not job.ended:
            return
        state = read_state(folder.name)
        if state and state.job_id == job_id and state.phase in UP:
            return
        log = folder.batch_log(job_id)
        if state and state.job_id == job_id and state.problem:
            kind = PreflightFailed if state.problem.startswith("preflight") else ClusterError
            raise kind(f"the cluster did not come up. {state.problem}")
        seen = f"ended as {job.state} ({job.reason})" if job else f"is unknown to {self._scheduler.title}"
        raise ClusterError(f"the cluster did not come up: job {job_id} {seen}. The end of {log}:\n{tail(log)}")

    def down(self, name: str, *, if_unused: bool = False) -> str:
        """End the cluster and everything that was submitted for it; what happened, as a sentence.

        It is down when the scheduler has shown the end of each of its jobs. One that it does not know, or not any more,
        may be another than the state file says: then the queue is searched for jobs of this cluster's scripts, which
        end too. Raises ClusterError, and leaves the state as it is, where a job does not end or nothing answers.
        """
        state, folder = read_state(name), ClusterFolder(name)
        if state is None:
            return f"there is no cluster {name!r}"
        if state.phase not in ("queued", "failed"):
            write_state(dataclasses.replace(state, phase="stopping"))  # so that TERM is not taken for the walltime
        successor = folder.ledger().successor()
        jobs = [job_id for job_id in dict.fromkeys((successor, state.job_id, *folder.helpers())) if job_id]
        unknown = [
            job_id for job_id in jobs if not self._end_job(job_id)
        ]  # the successor first, which must not start meanwhile
        ended = [job_id for job_id in self._scheduler.jobs_of(folder.path) if self._end_job(job_id)] if unknown else []
        if not ended and (odd := [job_id for job_id in unknown if not self._scheduler.is_job_id(job_id)]):
            raise ClusterError(
                f"{odd[0]!r} in the state of cluster {name!r} is not a job's id, and its scripts are not in the queue. "
                f"Check `{self._scheduler.hints.queue}`; if it lists none of its jobs, remove {folder.path}"
            )
        forget(name)
        if state.job_id not in unknown:
            return f"cluster {name!r} is down (job {state.job_id})"
        found = f"; its job {', '.join(ended)} was stopped" if ended else ", and has none of its scripts in the queue"
        return f"cluster {name!r} is gone: {self._scheduler.title} does not know job {state.job_id} (any more){found}"

    def _end_job(self, job_id: str) -> bool:
        """Stops a job; False where the scheduler does not know it. The batch script stops its cluster in order when
        asked; a cancellation is for one that does not."""
        if not self._scheduler.is_job_id(job_id):  # what an older version took a wrapper's banner for
            return False
        job = ask_briefly(self._scheduler, job_id)
        if job is None or job.ended:
            return job is not None
        asked = job.running and self._scheduler.signal(job_id, "TERM")
        if not (asked and self._wait_ended(job_id, END_TIMEOUT)):
            self._scheduler.cancel(job_id)
            if not self._wait_ended(job_id, END_TIMEOUT):
                raise ClusterError(f"job {job_id} does not end. See `{self._scheduler.hints.job.format(job_id)}`")
        return True

    def _wait_ended(self, job_id: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        observer = Observer(self._scheduler)
        while (job := observer.poll(job_id)) and not job.ended:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)
        return True

    def _is_live(self, job_id: str) -> bool:
        job = ask_briefly(self._scheduler, job_id)
        return job is not None and not job.ended

    def follow(self, name: str, job_id: str, say: Callable[[str], None]) -> int:
        """Print what the batch job prints, to its end and its successors' end; the exit code of the last one.

        Raises ClusterError when the scheduler ended it.
        """
        folder = ClusterFolder(name)
        while True:
            self._follow_one(folder, job_id, say)
            job, ledger = Observer(self._scheduler).ask(job_id), folder.ledger()
            successor = ledger.successor(of=job_id)
            if successor is None or not ledger.goes_on(job_id, lost=job is None or job.lost):
                return self._exit_code(folder, job_id)
            job_id = successor

    def _follow_one(self, folder: ClusterFolder, job_id: str, say: Callable[[str], None]) -> None:
        log, said = folder.batch_log(job_id), ""
        position, asked, ended = 0, 0.0, False
        gone_since: float | None = None  # since when nothing of it runs
        observer = Observer(self._scheduler)
        while True:
            position = _print_from(log, position)
            if ended:
                return
            if time.monotonic() - asked > QUEUE_POLL / 2:
                asked, job = time.monotonic(), observer.poll(job_id)
                gone_since = (gone_since or asked) if job and job.ending else None
                ended = job is None or job.ended or (gone_since is not None and asked - gone_since > END_PATIENCE)
                raise_stuck(self._scheduler, job, lambda: forget(folder.name))
                if job and job.waits and (line := _progress(folder, job_id, job, None)) != said:
                    say(said := line)
            time.sleep(POLL)

    def _exit_code(self, folder: ClusterFolder, job_id: str) -> int:
        """As the batch job itself wrote it down, else as the scheduler saw it."""
        for line in reversed(folder.events()):
            if line["job"] == job_id and line["event"] == "ended":
                return int(line["code"])
        job = Observer(self._scheduler).ask(job_id)
        seen = f"as {job.state} ({job.reason})" if job else f"no longer listed by {self._scheduler.title}"
        raise ClusterError(f"job {job_id} ended {seen}")


def raise_stuck(scheduler: Scheduler, job: Job | None, cancelled: Callable[[], object] = lambda: None) -> None:
    """Raise ProfileError for a job that can never start, once it is cancelled and `cancelled` was called, and
    ClusterError for one that waits for a person, which stays: whoever holds it may have a reason."""
    if job and job.never_starts:
        scheduler.cancel(job.id)
        cancelled()
        raise ProfileError(
            f"{scheduler.title} will never start this ({job.reason}), and job {job.id} was cancelled: "
            f"{scheduler.hints.limits}"
        )
    if job and job.held:
        release = scheduler.hints.release.format(job.id)
        raise ClusterError(
            f"job {job.id} is held ({job.state}, {job.reason}): release it with `{release}`, or ask the "
            "administrators why. It stays in the queue; make cluster-down cancels it"
        )


def _progress(folder: ClusterFolder, job_id: str, job: Job | None, state: ClusterState | None) -> str:
    if job and not job.usual:
        return f"{job.state.lower().replace('_', ' ')}: {job.reason}"
    if state is None or state.phase == "queued" or state.job_id != job_id:
        return f"queued: {job.reason}" if job and job.reason != "None" else "queued"
    there = folder.job(job_id)
    phases = [report["phase"] for report in node_reports(there).values()] if there.exists() else []
    up = sum(phase == "starting" for phase in phases)
    return f"starting: {up} of {state.expected_nodes} nodes are checked and start Ray"


def _print_from(log: Path, position: int) -> int:
    """Print what a log has gained; where it ends now. Listing makes an NFS client ask again, see `read_published`."""
    if not log.parent.is_dir() or log.name not in os.listdir(log.parent):  # noqa: PTH208
        return position
    with log.open("rb") as file:  # bytes: what was read may end inside a character
        file.seek(position)
        sys.stdout.buffer.write(file.read())
        sys.stdout.flush()
        return file.tell()
