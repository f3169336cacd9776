"""One command at a time that starts, heals or ends a cluster."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import ClusterError
from cluster.state import cluster_dir


@contextmanager
def locked(name: str, seconds: float) -> Iterator[None]:
    """Hold cluster `name`'s lock, which the kernel frees with a killed process.

    Raises ClusterError when another holds it for `seconds`.
    """
    folder = cluster_dir(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    with (folder / "lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ClusterError(f"another command holds {folder / 'lock'} for too long") from None
                time.sleep(0.1)
        yield
