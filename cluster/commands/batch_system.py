"""The user's side of a Slurm cluster: submit, wait and show what is waited for, follow, take down."""

import dataclasses
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cluster.errors import ClusterError, PreflightFailed, ProfileError
from cluster.folder.events import read_events
from cluster.folder.ledger import open_ledger
from cluster.folder.lock import locked
from cluster.folder.request import Request
from cluster.head.bringup import node_reports
from cluster.machine.logs import tail
from cluster.schedulers import slurm
from cluster.schedulers.script import write_script
from cluster.schedulers.slurm_text import JOB_ID
from cluster.state import (
    ClusterState,
    batch_log,
    cluster_dir,
    forget,
    helpers,
    job_dir,
    read_state,
    write_state,
    write_token,
)

QUEUE_TIMEOUT = 1800.0  # seconds that `up` watches a queue; the job stays in it
END_TIMEOUT = 90.0  # seconds for a job to end after it was asked to; then scancel, which Slurm enforces
END_PATIENCE = 180.0  # seconds that a job may take from its processes' end to its own; some nodes' epilogs are slow
USUAL = ("PENDING", "RUNNING", slurm.UNKNOWN)  # states that go without saying
LOCK_TIMEOUT = 120.0  # seconds; another `up` holds the lock for a few commands of Slurm, each of 30 at most
POLL = 0.5  # seconds between looks at the state file; Slurm's controller is asked every SLURM_POLL
SLURM_POLL = 5.0


def start(request: Request, say: Callable[[str], None]) -> ClusterState:
    """Submit a cluster, unless one of this name queues or runs already; its state.

    Several at once: one submits, the others find its cluster.
    """
    with locked(request.name, LOCK_TIMEOUT):
        return _start(request, say)


def _start(request: Request, say: Callable[[str], None]) -> ClusterState:
    state = _running(read_state(request.name))
    if state and state.phase != "failed":
        if request.mode != "up":
            raise ProfileError(
                f"there is a cluster {request.name!r} already (job {state.job_id}). Choose another NAME="
            )
        say(f"cluster {request.name!r} is there already: job {state.job_id}, {state.phase}")
        return state
    state = read_state(request.name)
    if state and state.scheduler == "local":
        raise ProfileError(f"{request.name!r} is the name of a local cluster. Choose another NAME=")
    _check_nodelist(request)
    forget(request.name)
    script = write_script(request)
    write_token(request.name, secrets.token_hex(32))
    (cluster_dir(request.name) / "logs").mkdir(mode=0o700, exist_ok=True)
    job_id = slurm.submit(script)
    state = ClusterState(
        name=request.name,
        phase="queued",
        scheduler="slurm",
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
    say(f"submitted job {job_id}: {request.nodes} node(s), log {batch_log(request.name, job_id)}")
    return state


def _running(state: ClusterState | None) -> ClusterState | None:
    """A cluster as its live batch job has it; None without one.

    Where a lost node ended the job without a word, the job is its successor, which waits.
    """
    if state is None or state.job_id is None or _is_live(state.job_id):
        return state if state and state.job_id else None
    successor = open_ledger(state.name).successor()
    if successor and _is_live(successor):
        return dataclasses.replace(state, phase="queued", job_id=successor, nodes=[], problem=None)
    return None


def wait_ready(name: str, job_id: str, say: Callable[[str], None]) -> ClusterState:
    """Wait until the cluster is ready, saying what it waits for. Raises ClusterError with why it never will be."""
    said = ""
    began = time.monotonic()
    deadline = began + QUEUE_TIMEOUT
    observer = slurm.Observer()
    asked, job = -SLURM_POLL, None
    while True:
        state = read_state(name)
        if state and state.job_id == job_id and state.phase in ("ready", "degraded"):
            return state
        if time.monotonic() - asked > SLURM_POLL:
            asked, job = time.monotonic(), observer.look(job_id)
            _raise_ended(name, job_id, job)
            raise_stuck(job, lambda: forget(name))
        line = _progress(name, job_id, job, state)
        if line != said:
            say(said := line)
        if job and job.running:
            deadline = max(deadline, time.monotonic() + 60)  # the batch job has its own deadline
        if job and job.ending:
            deadline = min(deadline, time.monotonic() + END_PATIENCE)
        if time.monotonic() > deadline:
            raise ClusterError(
                f"the cluster is not there after {(time.monotonic() - began) / 60:.0f} minutes: job {job_id} is "
                f"{job.state if job else 'unknown'} ({line}), and stays where it is. "
                f"See make cluster-status NAME={name}, or give up with make cluster-down NAME={name}"
            )
        time.sleep(POLL)


def _progress(name: str, job_id: str, job: slurm.Job | None, state: ClusterState | None) -> str:
    if job and job.state not in USUAL:
        return f"{job.state.lower().replace('_', ' ')}: {job.reason}"
    if state is None or state.phase == "queued" or state.job_id != job_id:
        return f"queued: {job.reason}" if job and job.reason != "None" else "queued"
    folder = job_dir(name, job_id)
    phases = [report["phase"] for report in node_reports(folder).values()] if folder.exists() else []
    up = sum(phase == "starting" for phase in phases)
    return f"starting: {up} of {state.expected_nodes} nodes are checked and start Ray"


def _check_nodelist(request: Request) -> None:
    """sbatch would add nodes from elsewhere, and say nothing."""
    nodelist = request.site.nodelist
    count = len(slurm.hostnames(nodelist)) if nodelist else request.nodes
    if count < request.nodes:
        raise ProfileError(
            f"nodelist={nodelist} names {count} of the {request.nodes} nodes. Name more, or give NODES={count}"
        )


def raise_stuck(job: slurm.Job | None, cancelled: Callable[[], object] = lambda: None) -> None:
    """Raise ProfileError for a job that Slurm will never start, once it is cancelled and `cancelled` was called, and
    ClusterError for one that waits for a person, which stays: whoever holds it may have a reason."""
    if job and job.never_starts:
        slurm.cancel(job.id)
        cancelled()
        raise ProfileError(
            f"Slurm will never start this ({job.reason}), and job {job.id} was cancelled: no partition, account or QOS "
            "gives one job that many nodes, CPUs, GPUs or hours, or not to you. Compare the site profile, --nodes, "
            "`scontrol show partition` and `sacctmgr show qos`"
        )
    if job and job.held:
        raise ClusterError(
            f"job {job.id} is held ({job.state}, {job.reason}) until somebody lets it start: `scontrol release "
            f"{job.id}`, or ask the administrators why. It stays in the queue; make cluster-down takes it out"
        )


def _raise_ended(name: str, job_id: str, job: slurm.Job | None) -> None:
    if job and not job.ended:
        return
    state = read_state(name)
    if state and state.job_id == job_id and state.phase in ("ready", "degraded"):
        return
    log = batch_log(name, job_id)
    if state and state.job_id == job_id and state.problem:
        kind = PreflightFailed if state.problem.startswith("preflight") else ClusterError
        raise kind(f"the cluster did not come up. {state.problem}")
    seen = f"ended as {job.state} ({job.reason})" if job else "is unknown to Slurm"
    raise ClusterError(f"the cluster did not come up: job {job_id} {seen}. The end of {log}:\n{tail(log)}")


def down(name: str) -> str:
    """End the cluster and everything that was submitted for it; what happened, as a sentence.

    It is down when Slurm has shown the end of each of its jobs. One that Slurm does not know, or not any more, may be
    another than the state file says: then the queue is searched for jobs of this cluster's scripts, which end too.
    Raises ClusterError, and leaves the state as it is, where a job does not end or Slurm does not answer.
    """
    state = read_state(name)
    if state is None:
        return f"there is no cluster {name!r}"
    if state.phase not in ("queued", "failed"):
        write_state(dataclasses.replace(state, phase="stopping"))  # so that TERM is not taken for the walltime
    successor = open_ledger(name).successor()
    jobs = [job_id for job_id in dict.fromkeys((successor, state.job_id, *helpers(name))) if job_id]
    unknown = [job_id for job_id in jobs if not _end_job(job_id)]  # the successor first: it is not to go on meanwhile
    ended = [job_id for job_id in slurm.jobs_of(cluster_dir(name)) if _end_job(job_id)] if unknown else []
    if not ended and (odd := [job_id for job_id in unknown if not JOB_ID.fullmatch(job_id)]):
        raise ClusterError(
            f"{odd[0]!r} in the state of cluster {name!r} is no job's id, and the queue has none of its scripts. "
            f"Look with `squeue --me`; if nothing of it is there, remove {cluster_dir(name)}"
        )
    forget(name)
    if state.job_id not in unknown:
        return f"cluster {name!r} is down (job {state.job_id})"
    found = f"; job {', '.join(ended)} of it ended now" if ended else ", and has none of its scripts in the queue"
    return f"cluster {name!r} is gone: Slurm does not know job {state.job_id} (any more){found}"


def _end_job(job_id: str) -> bool:
    """End a job; False where Slurm does not know it. The batch script ends its cluster in order when it is asked;
    Slurm's own way is for one that does not."""
    if not JOB_ID.fullmatch(job_id):  # what an older version took a wrapper's banner for
        return False
    job = slurm.Observer(slurm.SHORT_PATIENCE).ask(job_id, lambda _: time.sleep(slurm.SHORT_PAUSE))
    if job is None or job.ended:
        return job is not None
    asked = job.running and slurm.signal_batch(job_id, "TERM")
    if not (asked and _wait_ended(job_id, END_TIMEOUT)):
        slurm.cancel(job_id)
        if not _wait_ended(job_id, END_TIMEOUT):
            raise ClusterError(f"job {job_id} does not end. See `squeue -j {job_id}`")
    return True


def _wait_ended(job_id: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    observer = slurm.Observer()
    while (job := observer.look(job_id)) and not job.ended:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def _is_live(job_id: str) -> bool:
    job = slurm.Observer(slurm.SHORT_PATIENCE).ask(job_id, lambda _: time.sleep(slurm.SHORT_PAUSE))
    return job is not None and not job.ended


def follow(name: str, job_id: str, say: Callable[[str], None]) -> int:
    """Print what the batch job prints, to its end and its successors' end; the exit code of the last one.

    Raises ClusterError when Slurm ended it.
    """
    while True:
        _follow_one(name, job_id, say)
        job, ledger = slurm.Observer().ask(job_id), open_ledger(name)
        successor = ledger.successor(of=job_id)
        if successor is None or not ledger.goes_on(job_id, job.state if job else None):
            return _exit_code(name, job_id)
        job_id = successor


def _follow_one(name: str, job_id: str, say: Callable[[str], None]) -> None:
    log, said = batch_log(name, job_id), ""
    position, asked, ended = 0, 0.0, False
    gone_since: float | None = None  # since when nothing of it runs
    observer = slurm.Observer()
    while True:
        position = _print_from(log, position)
        if ended:
            return
        if time.monotonic() - asked > SLURM_POLL / 2:
            asked, job = time.monotonic(), observer.look(job_id)
            gone_since = (gone_since or asked) if job and job.ending else None
            ended = job is None or job.ended or (gone_since is not None and asked - gone_since > END_PATIENCE)
            raise_stuck(job, lambda: forget(name))
            if job and job.waits and (line := _progress(name, job_id, job, None)) != said:
                say(said := line)
        time.sleep(POLL)


def _print_from(log: Path, position: int) -> int:
    """Print what a log has gained; where it ends now. The listing has an NFS client ask anew, see `read_published`."""
    if not log.parent.is_dir() or log.name not in os.listdir(log.parent):  # noqa: PTH208
        return position
    with log.open("rb") as file:  # bytes: what was read may end inside a character
        file.seek(position)
        sys.stdout.buffer.write(file.read())
        sys.stdout.flush()
        return file.tell()


def _exit_code(name: str, job_id: str) -> int:
    """As the batch job itself wrote it down, else as Slurm saw it."""
    for line in reversed(read_events(name)):
        if line["job"] == job_id and line["event"] == "ended":
            return int(line["code"])
    job = slurm.Observer().ask(job_id)
    raise ClusterError(f"job {job_id} ended {f'as {job.state} ({job.reason})' if job else 'out of sight of Slurm'}")
