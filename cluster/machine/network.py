"""Which address and interface a node uses towards the others: found once, used for Ray, vLLM, NCCL and Gloo alike."""

import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import psutil

from cluster.errors import ClusterError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# Addresses of documentation (RFC 5737, 3849): no host has them, so the route to them is the default one. A connected
# UDP socket sends nothing.
ELSEWHERE = ("198.51.100.1", "2001:db8::1")
DISCARD = 9  # any port would do


@dataclass(frozen=True, slots=True)
class Link:
    """This node's address towards the others, and the name of the interface that has it."""

    ip: str
    interface: str


def find_link(peer: str | None, interface: str | None = None) -> Link:
    """The address and interface from which this node reaches `peer`, a host name or an IPv4 or IPv6 address.

    A name's addresses are tried in the resolver's order, loopback ones last: Debian writes 127.0.1.1 for a host's own
    name. `peer=None` (a cluster of one node): the default route's address, else the host name's, else loopback.
    `interface` takes that interface's address of the peer's family instead. Raises ClusterError when there is no
    route, no such name or no such interface.
    """
    targets = _resolve(peer) if peer else []
    if interface:
        return _of_interface(interface, targets)
    if source := _beyond_loopback(targets):
        return _link(source)
    if peer is None or _is_this_host(peer):
        return _own_link()
    if _means_loopback(peer):
        return _link(targets[0])
    seen = ", ".join(map(str, targets)) or "only link-local addresses"
    raise ClusterError(
        f"{socket.gethostname()} has no route to {peer} ({seen}) "
        f"that {peer} could answer on. Check `getent ahosts {peer}` and `ip route`, "
        "or set `interface` in the site profile"
    )


def host_port(ip: str, port: int) -> str:
    """`ip:port` as in a URL: an IPv6 address in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def parse_host_port(text: str) -> tuple[str, int]:
    """The host and port of `host:port` or `[ipv6]:port`. Raises ClusterError for anything else."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):(\d{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise ClusterError(f"{text!r} is not an address. Expected host:port, with IPv6 in brackets: [2001:db8::1]:6379")
    return found[1] or found[2], int(found[3])


def no_proxy(environment: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """NO_PROXY and no_proxy: what they name so far, `hosts` and this host itself, each once."""
    known = [part.strip() for key in ("no_proxy", "NO_PROXY") for part in environment.get(key, "").split(",")]
    names = dict.fromkeys([*known, *hosts, "localhost", "127.0.0.1", "::1"])
    value = ",".join(name for name in names if name)
    return {"NO_PROXY": value, "no_proxy": value}  # libraries differ in which of the two they read


def comm_environment(link: Link) -> dict[str, str]:
    """What makes vLLM, NCCL, Gloo and TensorPipe use `link`. The caller lets a site profile's own values win.

    UCX is left alone: UCX_NET_DEVICES=eth0 would switch its InfiniBand transports off.
    """
    return {
        "VLLM_HOST_IP": link.ip,
        "NCCL_SOCKET_IFNAME": f"={link.interface}",  # without `=` eth1 means eth10 as well
        "NCCL_SOCKET_FAMILY": "AF_INET6" if ":" in link.ip else "AF_INET",  # both ends must choose the same
        "GLOO_SOCKET_IFNAME": link.interface,
        "TP_SOCKET_IFNAME": link.interface,
    }


def interface_addresses() -> dict[str, list[Address]]:
    """The addresses of each interface, without link-local ones; those of an alias (eth0:1) count for its interface."""
    found: dict[str, list[Address]] = {}
    for name, entries in psutil.net_if_addrs().items():
        addresses = [ipaddress.ip_address(e.address.split("%")[0]) for e in entries if e.family in FAMILIES.values()]
        found.setdefault(name.split(":")[0], []).extend(a for a in addresses if not a.is_link_local)
    return found


def _resolve(peer: str) -> list[Address]:
    """The addresses of `peer`, in the resolver's order."""
    try:
        found = socket.getaddrinfo(peer, DISCARD, type=socket.SOCK_DGRAM)
    except (socket.gaierror, UnicodeError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise ClusterError(
            f"{socket.gethostname()} cannot resolve the host name {peer!r}: {what}. "
            f"Compare `getent hosts {peer}` on the nodes, or ask for the cluster's name service"
        ) from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in found]
    return [address for address in dict.fromkeys(addresses) if not address.is_link_local]


def _sources(targets: Iterable[Address], interface: str | None = None) -> Iterator[Address]:
    """The address that the kernel would send from, out of `interface` or any, for each target with a route."""
    for target in targets:
        with socket.socket(FAMILIES[target.version], socket.SOCK_DGRAM) as test:
            try:
                if interface:
                    test.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
                test.connect((str(target), DISCARD))
            except OSError:  # no route, no IPv6 on this host, or a kernel before 5.7, which lets only root bind
                continue
            source = ipaddress.ip_address(test.getsockname()[0].split("%")[0])
        if not source.is_link_local:
            yield source


def _means_loopback(peer: str) -> bool:
    """Whether `peer` asks for loopback in so many words; a host name never does, whatever it resolves to."""
    try:
        return peer == "localhost" or ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False


def _is_this_host(peer: str) -> bool:
    return peer.split(".")[0] == socket.gethostname().split(".")[0]


def _beyond_loopback(targets: Iterable[Address]) -> Address | None:
    return next((source for source in _sources(targets) if not source.is_loopback), None)


def _own_link() -> Link:
    """The address of the default route, else of the host name, else loopback."""
    source = _beyond_loopback(map(ipaddress.ip_address, ELSEWHERE)) or _beyond_loopback(_own_addresses())
    return _link(source or ipaddress.ip_address("127.0.0.1"))


def _own_addresses() -> list[Address]:
    try:
        return _resolve(socket.gethostname())
    except ClusterError:  # a host need not know its own name
        return []


def _link(source: Address) -> Link:
    return Link(str(source), _interface_of(source))


def _interface_of(address: Address) -> str:
    """The interface that has `address`. 127.0.1.1 is the address of no interface; it counts as loopback's."""
    interfaces = interface_addresses()
    for name, addresses in interfaces.items():
        if address in addresses or (address.is_loopback and any(a.is_loopback for a in addresses)):
            return name
    raise ClusterError(f"no interface has the address {address}, although the route to the other nodes uses it")


def _of_interface(name: str, targets: list[Address]) -> Link:
    """The address of interface `name` towards the first target of whose family it has one."""
    interfaces = interface_addresses()
    if name not in interfaces:
        raise ClusterError(
            f"{socket.gethostname()} has no interface {name!r}. "
            f"It has {', '.join(sorted(interfaces))}; correct `interface` in the site profile"
        )
    versions = list(dict.fromkeys(target.version for target in targets)) or [4, 6]
    for version in versions:
        addresses = [address for address in interfaces[name] if address.version == version]
        if addresses:
            routed = [source for source in _sources(targets, name) if source in addresses]
            return Link(str((routed or addresses)[0]), name)
    families = " or ".join(f"IPv{version}" for version in versions)
    others = [other for other, found in sorted(interfaces.items()) if any(a.version in versions for a in found)]
    raise ClusterError(
        f"the interface {name!r} of {socket.gethostname()} has no {families} address. "
        f"Interfaces with one: {', '.join(others) or 'none'}; correct `interface` in the site profile"
    )
