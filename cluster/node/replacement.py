"""Adds the nodes of a replacement's batch job to the cluster of batch job JOB, and ends with that cluster:
python -m cluster.node.replacement NAME JOB."""

import os
import signal
import sys
import time
from types import FrameType

from cluster.errors import ClusterError
from cluster.folder.request import load_request
from cluster.schedulers import slurm
from cluster.schedulers.step import Step
from cluster.state import job_dir, read_state

LOOK = 2.0  # seconds between looks at the state file
ASK = 10.0  # seconds between questions to Slurm, for a cluster that ended without a word


def main(argv: list[str]) -> int:
    name, job_id = argv
    stopped: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.append(signum)

    signal.signal(signal.SIGTERM, stop)
    # The notice of the walltime is the cluster's to heed: its jobs need these nodes to stop in order.
    signal.signal(signal.SIGUSR2, lambda *_: None)
    hosts = slurm.hostnames(os.environ["SLURM_JOB_NODELIST"])
    gpus = load_request(name).site.gpus_per_node
    step = Step(hosts, "cluster.node.agent", ["worker", name, job_id], log=job_dir(name, job_id) / "%N.log", gpus=gpus)
    asked = time.monotonic()
    while step.poll() is None and not stopped and _is_wanted(name, job_id):
        time.sleep(LOOK)
        if time.monotonic() - asked > ASK:
            asked = time.monotonic()
            if _has_ended(job_id):
                break
    step.terminate()
    step.wait()
    return 0


def _is_wanted(name: str, job_id: str) -> bool:
    state = read_state(name)
    return state is not None and state.job_id == job_id and state.phase != "failed"


def _has_ended(job_id: str) -> bool:
    try:
        job = slurm.job(job_id)
    except ClusterError:  # the controller is away; its absence is no reason to end
        return False
    return job is None or job.ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
