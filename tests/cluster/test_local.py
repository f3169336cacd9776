"""The local cluster: ports, state file, lease, and a real Ray that comes up, stays one, and leaves nothing behind."""

import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.commands import this_machine
from cluster.errors import ClusterError
from cluster.files import REPOSITORY
from cluster.machine.ports import BLOCK, PAIRWISE, SERVICES, ephemeral_floor, plan_ports, reserve_ports
from cluster.machine.processes import end_processes, is_running, processes_of, start_time
from cluster.state import ClusterState, Node, cluster_dir, read_state, write_state, write_token


def command(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"KOSEN_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_port_plan_names_every_port_once_and_stays_below_the_ephemeral_ones() -> None:
    ports = plan_ports("someone:local")
    workers = range(ports["worker_min"], ports["worker_max"] + 1)
    singles = [ports[service] for service in SERVICES]
    pairwise = range(ports["pairwise"], ports["pairwise"] + PAIRWISE)
    assert len({*singles, *workers, *pairwise}) == BLOCK - 1  # the last one is held by the node's keeper
    assert max(*singles, *workers) < ephemeral_floor()


def test_the_port_plan_goes_around_a_port_in_use() -> None:
    first = plan_ports("someone:local")
    with socket.socket() as server:
        server.bind(("127.0.0.1", first["worker_max"]))
        server.listen()
        second = plan_ports("someone:local")
    assert first["worker_max"] not in range(second["gcs"], second["worker_max"] + 1)


def test_the_port_plan_sees_a_server_of_ipv6() -> None:
    first = plan_ports("someone:local")
    try:
        server = socket.create_server(("::", first["gcs"]), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with server:
        assert plan_ports("someone:local")["gcs"] != first["gcs"]
    assert plan_ports("someone:local") == first


def test_a_reserved_block_is_nobody_elses_before_anything_listens() -> None:
    first, held = reserve_ports(7)
    with held:
        second, other = reserve_ports(7)
        other.close()
    assert first["gcs"] != second["gcs"]
    assert plan_ports(7) == first
    assert plan_ports(8)["gcs"] - first["gcs"] in (BLOCK, second["gcs"] - first["gcs"])  # neighbours do not meet


def test_a_site_may_name_its_ports() -> None:
    ports = plan_ports(3, range(25_000, 26_000))
    assert min(ports.values()) >= 25_000
    assert max(ports.values()) < 26_000
    with pytest.raises(OSError, match="too few"):
        plan_ports(3, range(25_000, 25_100))


def test_state_survives_the_file_and_the_token_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    state = ClusterState(
        "a", "ready", "local", None, [Node("h", "127.0.0.1", cpus=1, gpus=0)], "h:1", "u", {}, "/r", "t"
    )
    write_state(state)
    token = write_token("a", "secret")
    assert read_state("a") == state
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    (cluster_dir("a") / "state.json").write_text("{ torn")
    assert read_state("a") is None


def test_only_processes_with_the_mark_are_ended(tmp_path: Path) -> None:
    mark = str(tmp_path)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    ours = subprocess.Popen(
        [sys.executable, "-c", stubborn], env=os.environ | {"RAY_TMPDIR": mark}, stdout=subprocess.PIPE
    )
    other = subprocess.Popen(["sleep", "60"], env=os.environ | {"RAY_TMPDIR": mark + "-other"})
    assert ours.stdout is not None
    ours.stdout.readline()  # its signal handler is in place
    try:
        assert processes_of(mark) == {ours.pid}
        assert end_processes(lambda: processes_of(mark)) == 1
        assert not is_running(ours.pid)
        assert is_running(other.pid)
    finally:
        other.kill()
        other.wait()
        ours.wait()


def test_a_session_is_ended_only_while_it_can_be_the_heads() -> None:
    leader = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        assert processes_of("/none", leader.pid, start_time(leader.pid)) == {leader.pid}
        assert processes_of("/none", leader.pid, start_time(leader.pid) - 1) == set()  # the number was given anew
    finally:
        leader.kill()
        leader.wait()


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0].strip()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    yield home
    command(home, "down")


def test_status_without_a_cluster_names_the_next_command(tmp_path: Path) -> None:
    done = command(tmp_path, "status")
    assert done.returncode == 4
    assert "make cluster-up SITE=local" in done.stderr


def test_a_cluster_comes_up_once_and_goes_down_without_a_trace(home: Path) -> None:
    with ThreadPoolExecutor() as pool:  # two at once: one starts it, the other waits
        both = list(pool.map(lambda _: command(home, "up", "--json"), range(2)))
    assert [done.returncode for done in both] == [0, 0], both
    state, same = (json.loads(done.stdout) for done in both)
    assert state == same
    assert state["run_root"] == str(home / "runs")
    assert "already running" in command(home, "up").stderr

    with (home / "clusters" / "local" / "lease").open("a") as lease:  # as a job that works on it holds it
        fcntl.flock(lease, fcntl.LOCK_SH)
        assert "stays up" in command(home, "down", "--if-unused").stderr
    assert command(home, "status").returncode == 0

    session = (state["pids"]["head"], state["pids"]["head_started"])
    agents = {pid for pid in processes_of(state["temp_dir"], *session) if title(pid) == "ray::DashboardAgent"}
    assert agents  # also where its new name has overwritten its environment
    os.kill(state["pids"]["head"], 9)  # a stale state is cleaned away, orphans included
    assert "is down" in command(home, "down", "--if-unused").stderr
    assert processes_of(state["temp_dir"], *session) == set()
    assert not any(map(is_running, agents))
    assert not Path(state["temp_dir"]).exists()
    assert sorted(path.name for path in (home / "clusters" / "local").iterdir()) == ["lease", "lock", "logs"]


def test_clusters_of_one_name_in_two_homes_come_up_at_once(tmp_path: Path) -> None:
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda home: command(home, "up", "--json"), homes))
        list(pool.map(lambda home: command(home, "down"), homes))
    assert [done.returncode for done in both] == [0, 0], both
    first, second = (set(json.loads(done.stdout)["ports"].values()) for done in both)
    assert not first & second


def test_a_failed_start_shows_the_end_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    broken = [sys.executable, "-c", "raise SystemExit('no such luck')"]
    monkeypatch.setattr(this_machine, "ray_command", lambda *_: broken)
    with pytest.raises(ClusterError, match="no such luck"):
        this_machine.up("local")
    assert read_state("local") is None
