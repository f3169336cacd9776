"""The address of a node towards the others, asked in real network namespaces of every awkward kind."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.machine.network import Link, comm_environment, find_link, host_port, no_proxy, parse_host_port
from tests.support.netns import Namespace, missing

ASK = """
import json, sys
from cluster.errors import ClusterError
from cluster.machine.network import find_link
for peer, interface in json.loads(sys.argv[1]):
    try:
        link = find_link(peer, interface)
        print(link.ip, link.interface)
    except ClusterError as error:
        print("error:", error)
"""
Question = tuple[str | None, str | None]
WHY_NOT = missing()
needs_namespaces = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def ask(host: Namespace, *questions: Question, hostname: str = "node1") -> list[str]:
    """What find_link says in there: `ip interface`, or the error, one a question."""
    arguments = host.command(sys.executable, "-c", ASK, json.dumps(questions), hostname=hostname)
    done = subprocess.run(
        arguments, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def namespace() -> Iterator[Callable[..., Namespace]]:
    made: list[Namespace] = []

    def make(hosts: str = "") -> Namespace:
        made.append(Namespace(hosts))
        return made[-1]

    yield make
    for host in made:
        host.remove()


@needs_namespaces
def test_a_host_with_ipv6_only(namespace: Callable[..., Namespace]) -> None:
    host = namespace("2001:db8:1::2 node2\n10.0.0.2 both\n2001:db8:1::2 both")
    host.add_interface("eth0", "2001:db8:1::1/64")
    host.ip("-6", "route", "add", "default", "via", "2001:db8:1::9")
    own = "2001:db8:1::1 eth0"
    questions: list[Question] = [("node2", None), ("both", None), ("2001:db8:1::2", "eth0"), ("node2", "eth0")]
    assert ask(host, *questions) == [own] * 4
    assert ask(host, (None, None)) == [own]
    no_route, no_address = ask(host, ("10.0.0.2", None), ("10.0.0.2", "eth0"))
    assert "no route to 10.0.0.2" in no_route
    assert "'eth0' of node1 has no IPv4 address" in no_address


@needs_namespaces
def test_a_dual_stack_host_answers_in_the_peers_family(namespace: Callable[..., Namespace]) -> None:
    host = namespace("10.0.0.2 four\n2001:db8:1::2 six")
    host.add_interface("eth0", "10.0.0.1/24", "2001:db8:1::1/64")
    four, six, by_interface, alone = ask(host, ("four", None), ("six", None), ("six", "eth0"), (None, "eth0"))
    assert (four, alone) == ("10.0.0.1 eth0", "10.0.0.1 eth0")
    assert six == by_interface == "2001:db8:1::1 eth0"


@needs_namespaces
def test_two_addresses_on_one_interface(namespace: Callable[..., Namespace]) -> None:
    host = namespace()
    host.add_interface("eth0", "10.0.0.1/24", "10.9.0.1/24")
    first, second, forced = ask(host, ("10.0.0.2", None), ("10.9.0.2", None), ("10.9.0.2", "eth0"))
    assert first == "10.0.0.1 eth0"
    assert second == forced == "10.9.0.1 eth0"


@needs_namespaces
def test_the_route_decides_between_two_interfaces_and_the_profile_over_it(namespace: Callable[..., Namespace]) -> None:
    host = namespace()
    host.add_interface("eth0", "10.0.0.1/24")
    host.add_interface("ib0", "10.5.0.1/24")
    host.ip("route", "add", "default", "via", "10.0.0.254")
    host.ip("route", "add", "10.77.0.0/16", "via", "10.5.0.254")
    routed, default, forced, wrong = ask(
        host, ("10.77.3.4", None), (None, None), ("10.77.3.4", "eth0"), ("10.77.3.4", "ib1")
    )
    assert routed == "10.5.0.1 ib0"
    assert default == forced == "10.0.0.1 eth0"
    assert "no interface 'ib1'" in wrong and "eth0, eth0x, ib0, ib0x, lo" in wrong


@needs_namespaces
def test_a_name_that_debian_maps_to_loopback(namespace: Callable[..., Namespace]) -> None:
    host = namespace("127.0.1.1 node1\n10.0.0.1 node1\n127.0.1.1 node3")
    host.add_interface("eth0", "10.0.0.1/24")
    assert ask(host, ("node1", None), (None, None)) == ["10.0.0.1 eth0"] * 2
    other, asked_for = ask(host, ("node3", None), ("127.0.0.1", None))
    assert other.startswith("error: node1 has no route to node3 (127.0.1.1)")
    assert asked_for == "127.0.0.1 lo"


@needs_namespaces
def test_a_host_without_any_network_has_loopback(namespace: Callable[..., Namespace]) -> None:
    assert ask(namespace("127.0.1.1 node1"), (None, None), ("node1", None)) == ["127.0.0.1 lo"] * 2


def test_an_unknown_name_is_one_sentence() -> None:
    with pytest.raises(ClusterError, match=r"cannot resolve the host name 'no-such-host\.invalid'"):
        find_link("no-such-host.invalid")


def test_the_found_address_can_be_bound() -> None:
    link = find_link(None)
    family = socket.AF_INET6 if ":" in link.ip else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((link.ip, 0))
    assert link.interface in dict(socket.if_nameindex()).values()


@pytest.mark.parametrize(
    ("ip", "text"), [("10.0.0.1", "10.0.0.1:80"), ("2001:db8::1", "[2001:db8::1]:80"), ("n", "n:80")]
)
def test_host_and_port_there_and_back(ip: str, text: str) -> None:
    assert host_port(ip, 80) == text
    assert parse_host_port(text) == (ip, 80)


@pytest.mark.parametrize("text", ["2001:db8::1:80", "host", "host:", ":80", "host:99999", "[::1]"])
def test_no_address_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="Expected host:port"):
        parse_host_port(text)


def test_no_proxy_keeps_what_was_there_once() -> None:
    found = no_proxy({"no_proxy": "a.example, node2", "NO_PROXY": "a.example,.corp"}, ["node1", "node2", "10.0.0.1"])
    assert found["NO_PROXY"] == found["no_proxy"] == "a.example,node2,.corp,node1,10.0.0.1,localhost,127.0.0.1,::1"


def test_every_library_gets_the_same_interface_and_family() -> None:
    four, six = comm_environment(Link("10.0.0.1", "eth1")), comm_environment(Link("2001:db8::1", "eth1"))
    assert four["NCCL_SOCKET_IFNAME"] == "=eth1"  # NCCL takes a bare name for a prefix
    assert (four["GLOO_SOCKET_IFNAME"], four["VLLM_HOST_IP"]) == ("eth1", "10.0.0.1")
    assert (four["NCCL_SOCKET_FAMILY"], six["NCCL_SOCKET_FAMILY"]) == ("AF_INET", "AF_INET6")
