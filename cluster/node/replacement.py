"""Adds the nodes of a replacement's batch job to the cluster of batch job JOB, and ends with that cluster:
python -m cluster.node.replacement NAME JOB."""

import os
import signal
import sys
import time
from types import FrameType

from cluster.errors import ClusterError
from cluster.folder.cluster_folder import ClusterFolder
from cluster.schedulers.base import Scheduler, scheduler_of
from cluster.state import read_state

POLL = 2.0  # seconds between polls of the state file
ASK = 10.0  # seconds between polls of the scheduler, for a cluster that ended without a trace


def main(argv: list[str]) -> int:
    name, job_id = argv
    stopped: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.append(signum)

    signal.signal(signal.SIGTERM, stop)
    # Ignore the walltime's signal: the main batch job handles it and still needs these nodes to stop its jobs.
    signal.signal(signal.SIGUSR2, lambda *_: None)
    cluster = ClusterFolder(name)
    site = cluster.request().site
    scheduler = scheduler_of(site.scheduler)
    hosts, folder = scheduler.allocation(os.environ).hosts, cluster.job(job_id)
    arguments = ["worker", name, job_id]
    step = scheduler.step(hosts, "cluster.node.agent", arguments, folder=folder, gpus=site.gpus_per_node)
    asked = time.monotonic()
    while step.poll() is None and not stopped and _is_wanted(name, job_id):
        time.sleep(POLL)
        if time.monotonic() - asked > ASK:
            asked = time.monotonic()
            if _has_ended(scheduler, job_id):
                break
    step.terminate()
    step.wait()
    return 0


def _is_wanted(name: str, job_id: str) -> bool:
    state = read_state(name)
    return state is not None and state.job_id == job_id and state.phase != "failed"


def _has_ended(scheduler: Scheduler, job_id: str) -> bool:
    try:
        job = scheduler.job(job_id)
    except ClusterError:  # the controller is away; this does not end the cluster
        return False
    return job is None or job.ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
