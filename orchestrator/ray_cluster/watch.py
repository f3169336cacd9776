"""Notifies a job that its cluster is taken down: Ray itself would end the driver without a message, exit code 1.

Only for clusters on this machine. A scheduler's are signalled to save and stop first, and what runs there gets SIGTERM.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.state import UP, ClusterState
from orchestrator.console import console
from orchestrator.errors import ClusterNotReady
from orchestrator.ray_cluster.find import read_state

POLL = 0.1  # seconds; `cluster down` gives jobs a few seconds to leave once the state says `stopping`


@contextmanager
def watched(state: ClusterState | None) -> Iterator[None]:
    """End this process with a sentence and ClusterNotReady's exit code if its local cluster goes away inside."""
    over = threading.Event()
    if state and state.scheduler == "local":
        threading.Thread(target=_watch, args=(state, over), name="cluster-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(state: ClusterState, over: threading.Event) -> None:
    while not over.wait(POLL):
        if is_gone(state) and not over.wait(POLL) and is_gone(state):
            _leave(state.name)


def is_gone(state: ClusterState) -> bool:
    """Whether the cluster of `state` is going down, or another has taken its place. Unknown counts as no."""
    try:
        found = read_state(state.name)
    except (OSError, ClusterNotReady):
        return False
    return found is None or found.phase not in UP or found.started_at != state.started_at


def _leave(name: str) -> None:
    """At once: whatever the job would tidy up lives in the cluster, and Ray kills this process within a second.

    Records lie in the run folder already, and the kernel gives its lock back.
    """
    console.show_cursor()
    print(
        f"error: cluster {name!r} was taken down under this job. What was finished is recorded: start a cluster "
        f"(make cluster-up) and run the same command to resume",
        file=sys.stderr,
        flush=True,
    )
    os._exit(ClusterNotReady.exit_code)
