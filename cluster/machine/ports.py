"""Every port of a Ray cluster, pinned: no collision with a neighbour's cluster, and a firewall can name them."""

import errno
import itertools
import socket
import zlib
from contextlib import suppress
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
    "pairwise",  # and the three after it, while the links are measured
)
# Ray binds these on every interface unless the node itself is called 127.0.0.1, which it never is, and they ask for no
# token: whoever reaches the host reads figures of its CPUs and GPUs, and names and paths of models. The last two are
# the head's.
OPEN = ("metrics_export", "autoscaler_metrics", "dashboard_metrics")
PAIRWISE = 4
WORKERS = 300  # ports, one a worker process: tasks, actors and replicas of one host
BLOCK = len(SERVICES) + PAIRWISE - 1 + WORKERS + 1  # the last one is held by the node's keeper, see reserve_ports
ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # a host without IPv6, or without IPv4
FIRST = 20_000  # below are the well-known ones, among them Ray's own defaults (6379, 8000, 8265, 10001-19999)


def plan_ports(seed: int | str, within: range | None = None) -> dict[str, int]:
    """A free block of ports by service name, with `worker_min` and `worker_max`.

    `seed` picks where the search starts, so that clusters that start at the same moment try different blocks:
    a number (a job's id) picks the block of that number, so neighbours in the queue never meet. `within` are the ports
    that the site allows; those that the kernel gives to outgoing connections are left out. Raises OSError when no
    block is free.
    """
    within = within or range(FIRST, 65536)
    end = max(min(within.stop, ephemeral_floor()), min(within.stop, within.start + 2 * BLOCK))
    blocks = range(within.start, end - BLOCK + 1, BLOCK)
    if not blocks:
        raise OSError(f"the ports {within.start}-{within.stop - 1} are too few: a cluster needs {BLOCK} in a row")
    start = (seed if isinstance(seed, int) else zlib.crc32(seed.encode())) % len(blocks)
    for first in itertools.chain(blocks[start:], blocks[:start]):
        if all(map(is_free, range(first, first + BLOCK))):
            ports = {service: first + index for index, service in enumerate(SERVICES)}
            return ports | {"worker_min": first + BLOCK - 1 - WORKERS, "worker_max": first + BLOCK - 2}
    raise OSError(f"no {BLOCK} free ports in a row between {blocks[0]} and {blocks[-1] + BLOCK - 1}")


def reserve_ports(seed: int | str, within: range | None = None) -> tuple[dict[str, int], socket.socket]:
    """`plan_ports`, and a socket that holds the block's last port: while it is open, no other plan takes the block,
    also in the seconds before Ray's own servers listen."""
    for _ in range(10):  # another plan may take the same block between the check and the hold
        ports = plan_ports(seed, within)
        with suppress(OSError):
            return ports, _hold(ports["worker_max"] + 1)
    raise OSError("other clusters take every block of ports first")


def ephemeral_floor() -> int:
    """The lowest port that the kernel gives to outgoing connections; those above may be taken at any moment."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768


def is_free(port: int) -> bool:
    """Whether a server could listen here now. Ray's servers bind every interface, some of them IPv6's as well."""
    return all(_is_free(family, port) for family in ANY)


def _is_free(family: socket.AddressFamily, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as test:
            test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT does not matter
            if family == socket.AF_INET6:
                test.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            test.bind((ANY[family], port))
    except OSError as error:
        return error.errno in NO_SUCH_FAMILY
    return True


def _hold(port: int) -> socket.socket:
    """A socket that has `port`, of both families where there are two. Raises OSError where another has it."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        held.bind((ANY[family], port))
    except OSError:
        held.close()
        raise
    return held
