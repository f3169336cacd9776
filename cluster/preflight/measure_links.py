"""Measures the links from one node, as a task of a batch step: python -m cluster.preflight.measure_links NAME JOB.

The other task of this node knows its address and has its ports; this one waits until that has published them.
"""

import os
import sys
import time

from cluster.errors import ClusterError
from cluster.files import read_published
from cluster.folder.cluster_folder import ClusterFolder
from cluster.probes import pairwise
from cluster.schedulers.base import scheduler_of

GATHER_SHARE = 0.8  # of ready_timeout, for all hosts to connect; the rest is time to report who did not


def main(argv: list[str]) -> int:
    name, job_id = argv
    cluster = ClusterFolder(name)
    request = cluster.request()
    allocation = scheduler_of(request.site.scheduler).allocation(os.environ)
    folder, host = cluster.job(job_id), allocation.this_host
    began = time.monotonic()
    deadline = began + request.site.ready_timeout
    while not (report := read_published(folder / f"node-{host}.json")) or "ip" not in report:
        if time.monotonic() > deadline or (report and report["phase"] == "failed"):
            raise ClusterError(f"{host} has no address to measure from")
        time.sleep(0.1)
    options = {
        "folder": folder,
        "host": host,
        "hosts": ",".join(allocation.hosts),
        "ip": report["ip"],
        "interface": report["interface"],
        "port": report["ports"]["pairwise"],
        "gpus": report["gpus"],
        "patience": max(1.0, GATHER_SHARE * request.site.ready_timeout - (time.monotonic() - began)),
    }
    return pairwise.main([f"--{option}={value}" for option, value in options.items()])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ClusterError as error:
        sys.exit(f"error: {error}")
