"""Cancels a batch job that lost its head: python -m cluster.node.head_watchdog NAME JOB, a step on each worker's node.

A job survives the loss of any node, also of the one that ran the batch script: it would hold the other
nodes until its walltime, with no process to stop it. A worker's node notes the loss in the ledger, for the successor.
"""

import dataclasses
import signal
import sys
import threading
from contextlib import suppress

from cluster.errors import ClusterError
from cluster.folder.cluster_folder import ClusterFolder
from cluster.machine.network import parse_host_port
from cluster.node.ray_keeper import is_listening
from cluster.schedulers.base import Scheduler, Silent, scheduler_of
from cluster.state import read_state, token_path, write_state

POLL = 5.0  # seconds between polls of the head's port, which cost nothing
PATIENCE = 3  # failed polls before the scheduler is asked, and each time after


def main(argv: list[str]) -> int:
    name, job_id = argv
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda *_: stopped.set())
    state = read_state(name)
    if state is None or not state.ray_address:
        return 0
    scheduler = scheduler_of(state.scheduler)
    host, port = parse_host_port(state.ray_address)
    in_vain = 0
    while not stopped.wait(POLL):
        in_vain = 0 if is_listening(host, port) else in_vain + 1
        if in_vain >= PATIENCE and _has_lost(scheduler, job_id, state.host):
            with suppress(Silent):  # the job was not cancelled: once more
                _give_up(scheduler, name, job_id)
                return 0
    return 0


def _give_up(scheduler: Scheduler, name: str, job_id: str) -> None:
    """Leave the ledger to a successor, and to its user the reason why the cluster is gone; then cancel it."""
    try:
        ledger = ClusterFolder(name).ledger(job_id)
        ledger.end("lost")
        state = read_state(name)
        if state and state.job_id == job_id:
            successor = ledger.successor(of=job_id)
            rest = f"; job {successor} takes over" if successor else ""
            problem = f"the node {state.host}, which ran the head, is lost, and job {job_id} was cancelled{rest}"
            write_state(dataclasses.replace(state, phase="failed", problem=problem, nodes=[]))
            token_path(name).unlink(missing_ok=True)
    finally:  # a full disk must not keep the nodes
        scheduler.cancel(job_id)


def _has_lost(scheduler: Scheduler, job_id: str, node: str) -> bool:
    """Whether the scheduler has taken `node` out of the job."""
    with suppress(ClusterError):  # this node is the one without a link, or the controller is away: ask again
        job = scheduler.job(job_id)
        return job is not None and job.running and node not in job.nodes
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
