"""One command at a time that starts, heals or ends a cluster."""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster import files
from cluster.errors import ClusterError
from cluster.state import cluster_dir


@contextmanager
def locked(name: str, seconds: float) -> Iterator[None]:
    """Hold cluster `name`'s lock. Raises ClusterError when another holds it for `seconds`."""
    path = cluster_dir(name) / "lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.locked(path, seconds, ClusterError(f"another command holds {path} for too long")):
        yield
