"""Every port of a Ray cluster, pinned: no collision with a neighbour's cluster, and a firewall can name them."""

import itertools
import socket
import zlib
from pathlib import Path

# One port each. Ray's defaults are the same on every host, so two users on one machine would collide;
# the last two have no option, only environment variables.
SERVICES = (
    "gcs",
    "dashboard",
    "node_manager",
    "object_manager",
    "ray_client",
    "agent_http",
    "agent_grpc",
    "runtime_env_agent",
    "metrics_export",
    "serve",
    "autoscaler_metrics",
    "dashboard_metrics",
)
WORKERS = 300  # one port a worker process: tasks, actors and replicas of one host
BLOCK = len(SERVICES) + WORKERS
FIRST = 20_000  # below are the well-known ones, among them Ray's own defaults (6379, 8000, 8265, 10001-19999)


def plan_ports(seed: str) -> dict[str, int]:
    """A free block of ports by service name, with `worker_min` and `worker_max`.

    `seed` picks where the search starts, so that clusters that start at the same moment look at different blocks.
    Raises OSError when no block is free.
    """
    blocks = range(FIRST, max(ephemeral_floor(), FIRST + 2 * BLOCK) - BLOCK, BLOCK)
    start = zlib.crc32(seed.encode()) % len(blocks)
    for first in itertools.chain(blocks[start:], blocks[:start]):
        if all(map(is_free, range(first, first + BLOCK))):
            ports = {service: first + index for index, service in enumerate(SERVICES)}
            return ports | {"worker_min": first + len(SERVICES), "worker_max": first + BLOCK - 1}
    raise OSError(f"no {BLOCK} free ports in a row between {blocks[0]} and {blocks[-1] + BLOCK}")


def ephemeral_floor() -> int:
    """The lowest port that the kernel gives to outgoing connections; those above may be taken at any moment."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768


def is_free(port: int) -> bool:
    """Whether a server could listen here now. Ray's servers bind every interface, so the test does as well."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as test:
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
        try:
            test.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True
