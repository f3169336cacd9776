"""Nodes that measure the links between them, in pairs: who meets whom, and who is named when something is wrong."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest

from cluster.files import REPOSITORY, publish
from cluster.preflight.slow_links import judge_pairs
from cluster.probes.pairwise import read_results, rounds
from tests.support.netns import Namespace, missing

WHY_NOT = missing()
needs_root = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.mark.parametrize("count", range(1, 12))
def test_the_tournament(count: int) -> None:
    hosts = [f"n{i:02}" for i in range(count)]
    schedule = rounds(hosts)
    pairs = [pair for pairs in schedule for pair in pairs]
    assert len(schedule) <= 3
    assert len(set(pairs)) == len(pairs) and all(a < b for a, b in pairs)
    for one_round in schedule:
        players = [host for pair in one_round for host in pair]
        assert len(set(players)) == len(players)
    if count <= 4:
        assert set(pairs) == set(combinations(hosts, 2))
    else:
        assert all(sum(host in pair for pair in pairs) >= 2 for host in hosts)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts one host's part. Whatever still runs at the end is ended, paused or not."""
    running: list[subprocess.Popen[str]] = []

    def start(
        host: str,
        hosts: str,
        timeout: float,
        at: Namespace | None = None,
        ip: str = "127.0.0.1",
        port: int = 0,
        patience: float = 60,
    ) -> "subprocess.Popen[str]":
        arguments = [sys.executable, "-m", "cluster.probes.pairwise", f"--folder={tmp_path}", f"--host={host}"]
        arguments += [f"--hosts={hosts}", f"--ip={ip}", f"--interface={'eth0' if at else 'lo'}"]
        arguments += [f"--port={port or free_port()}", f"--timeout={timeout}", f"--patience={patience}"]
        command = at.command(*arguments) if at else arguments
        running.append(
            subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def free_port() -> int:
    with socket.socket() as test:
        test.bind(("", 0))
        port: int = test.getsockname()[1]
    return port


def end(process: "subprocess.Popen[str]", seconds: float) -> tuple[int, str]:
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def test_two_nodes_meet_and_each_is_measured_alone(tmp_path: Path, start: Start) -> None:
    parts = [start(host, "a,b", 40) for host in "ab"]
    for code, output in [end(part, 60) for part in parts]:
        assert code == 0, output
    results = read_results(tmp_path)
    assert sorted(result.hosts for result in results) == [["a"], ["a", "b"], ["a", "b"], ["b"]]
    assert all(result.correct and result.latency and min(result.bus_bandwidth.values()) > 0 for result in results)
    assert max(result.seconds for result in results) < 20
    assert judge_pairs(results, ["a", "b"])[-1].severity in ("ok", "warning")  # slow on a busy machine, never broken


def test_a_partner_that_never_comes_is_named_in_time(tmp_path: Path, start: Start) -> None:
    started = time.monotonic()
    code, output = end(start("a", "a,b", 20, patience=2), 40)
    assert code == 1 and "b did not connect within 2 s" in output
    assert time.monotonic() - started < 20
    (finding,) = judge_pairs(read_results(tmp_path), ["a", "b"])
    assert (finding.severity, finding.node) == ("error", "b")


def test_a_partner_that_comes_late_is_waited_for(tmp_path: Path, start: Start) -> None:
    """A cold file system has one node import torch in seconds and another in minutes."""
    early = start("a", "a,b", 20)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pairwise" / "host.a.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for code, output in [end(part, 60) for part in (early, start("b", "a,b", 20))]:
        assert code == 0, output


def test_a_port_in_use_is_named_as_this_nodes_problem_and_nobody_waits(tmp_path: Path, start: Start) -> None:
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        parts = [start("a", "a,b", 20, port=server.getsockname()[1]), start("b", "a,b", 20)]
        (code, output), (other, _) = [end(part, 40) for part in parts]
    assert (code, other) == (1, 1) and "address already in use" in output.lower()
    assert [finding.node for finding in judge_pairs(read_results(tmp_path), ["a", "b"])] == ["a"]


def test_a_paused_node_is_what_the_failed_pairs_have_in_common(tmp_path: Path, start: Start) -> None:
    publish(tmp_path / "pairwise" / "host.b.json", {"ip": "127.0.0.1", "port": 1, "gpus": 0})  # holds the others back
    paused = start("c", "a,b,c", 60)
    deadline = time.monotonic() + 30
    while not (tmp_path / "pairwise" / "host.c.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(paused.pid, signal.SIGSTOP)  # it has said that it is there, and waits for a
    parts = [start(host, "a,b,c", 5) for host in "ab"]
    outputs = [end(part, 40) for part in parts]
    assert [code for code, _ in outputs] == [1, 1]
    results = read_results(tmp_path)
    assert {tuple(result.hosts) for result in results if result.problem} == {("a", "c"), ("b", "c")}
    (finding,) = judge_pairs(results, ["a", "b", "c"])
    assert (finding.severity, finding.node) == ("error", "c")


@needs_root
def test_a_node_behind_a_slow_cable_is_named(tmp_path: Path, start: Start) -> None:
    switch, hosts = Namespace(), {name: Namespace() for name in "abc"}
    try:
        switch.ip("link", "add", "br0", "type", "bridge")
        switch.ip("link", "set", "br0", "up")
        for number, (name, host) in enumerate(hosts.items(), 1):
            host.add_interface("eth0", f"2001:db8:1::{number}/64", peer=(switch, name))
            switch.ip("link", "set", "dev", name, "master", "br0")
        slow_down = "tc qdisc add dev eth0 root tbf rate 60mbit burst 64kb latency 200ms"
        tc = hosts["c"].command(*slow_down.split())
        if (done := subprocess.run(tc, capture_output=True, text=True, check=False)).returncode:
            pytest.skip(f"no traffic control here: {done.stderr.strip()}")
        parts = [
            start(name, "a,b,c", 60, at=host, ip=f"2001:db8:1::{number}", port=27000)
            for number, (name, host) in enumerate(hosts.items(), 1)
        ]
        for code, output in [end(part, 90) for part in parts]:
            assert code == 0, output
    finally:
        for host in [switch, *hosts.values()]:
            host.remove()
    results = read_results(tmp_path)
    slow = {tuple(r.hosts) for r in results if r.bus_bandwidth[2**23] < 1e7}
    assert slow == {("a", "c"), ("b", "c")}
    (finding,) = judge_pairs(results, ["a", "b", "c"])
    assert (finding.severity, finding.node) == ("warning", "c")
