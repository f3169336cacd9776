"""The test cluster itself: nodes that are separate, break and come back, and leave nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.files import REPOSITORY
from tests.support.mini_slurm import LOGIN, MiniSlurm, MiniSlurmError, Process
from tests.support.namespaces import running_with, wait_until

pytestmark = pytest.mark.slow


def srun(slurm: MiniSlurm, *arguments: str, user: str | None = None) -> list[str]:
    done = slurm.run(LOGIN, ["srun", "--immediate=30", *arguments], user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def orphans(slurm: MiniSlurm) -> list[Process]:
    return [process for process in slurm.processes("node1") if process.command == "sleep 61"]


@pytest.fixture
def orphan(slurm: MiniSlurm) -> Iterator[Process]:
    """A process on node1 whose parent is gone."""
    slurm.run("node1", ["sh", "-c", "setsid sleep 61 &"])
    wait_until(lambda: len(orphans(slurm)) == 1, 5, "the orphan did not start")
    yield orphans(slurm)[0]
    for process in orphans(slurm):
        os.kill(process.pid, 9)


def test_a_step_runs_on_all_nodes_with_their_own_addresses_and_gpus(slurm: MiniSlurm) -> None:
    show = "echo $(hostname):$(hostname --ip-address):$CUDA_VISIBLE_DEVICES"
    seen = srun(slurm, "-N4", "--gpus-per-node=2", "sh", "-c", show)
    assert sorted(seen) == [f"{node}:{slurm.address(node)}:0,1" for node in slurm.names]


def test_the_machine_itself_can_submit(slurm: MiniSlurm) -> None:
    command = ["srun", "--immediate=30", "-N2", "hostname"]
    environment = os.environ | slurm.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stdout.split()) == 2


def test_a_crashed_node_comes_back_with_its_disk_and_without_its_memory(slurm: MiniSlurm) -> None:
    before = slurm.temp_entries("node2")  # what a test that lost this node may have left on its disk
    slurm.run("node2", ["touch", "/tmp/on-disk", "/dev/shm/in-memory"])
    held = slurm.popen("node2", ["sleep", "60"])
    slurm.crash("node2")
    assert held.wait(5) == -9
    assert slurm.temp_entries("node2") - before == {"on-disk"}
    with pytest.raises(MiniSlurmError, match="node2 is not running"):
        slurm.run("node2", ["true"])
    slurm.boot("node2")
    on_disk, in_memory = (slurm.run("node2", ["ls", folder]).stdout.split() for folder in ("/tmp", "/dev/shm"))
    slurm.run("node2", ["rm", "/tmp/on-disk"])
    assert "on-disk" in on_disk
    assert in_memory == []
    assert srun(slurm, "-w", "node2", "hostname") == ["node2"]


def test_a_cut_node_is_silent_until_it_is_healed(slurm: MiniSlurm) -> None:
    ping = ["timeout", "1", "bash", "-c", f"</dev/tcp/{slurm.address('node3')}/6818"]
    assert slurm.run(LOGIN, ping).returncode == 0
    slurm.cut("node3")
    assert slurm.run(LOGIN, ping).returncode != 0
    slurm.heal("node3")
    wait_until(lambda: slurm.run(LOGIN, ping).returncode == 0, 10, "node3 stayed silent")


def test_an_administrator_can_take_a_node_and_give_it_back(slurm: MiniSlurm) -> None:
    slurm.set_down("node4", "tested")
    assert slurm.state("node4") == "down"
    slurm.resume("node4")
    wait_until(lambda: slurm.state("node4") == "idle", 10, "node4 did not come back")


def test_an_orphan_is_seen_under_its_machines_number(slurm: MiniSlurm, orphan: Process) -> None:
    assert orphan.user == "root"
    assert not any(process.command == orphan.command for process in slurm.processes("node2"))
    os.kill(orphan.pid, 9)
    wait_until(lambda: not orphans(slurm), 5, "the orphan stayed")


def test_the_processes_of_an_idle_node_are_none(slurm: MiniSlurm) -> None:
    wait_until(lambda: slurm.processes("node4") == [], 10, "something runs on an idle node")
    assert slurm.listening("node4") == set()


def test_listening_ports_are_seen_by_node(slurm: MiniSlurm) -> None:
    serve = "import socket, time; s = socket.create_server(('', 8123)); time.sleep(60)"
    server = slurm.popen("node1", [sys.executable, "-c", serve])
    wait_until(lambda: slurm.listening("node1") == {8123}, 10, "the port was not seen")
    assert slurm.listening("node2") == set()
    server.terminate()
    assert server.wait(5) == -15  # the signal reached the program itself


def test_a_command_past_its_time_is_killed(slurm: MiniSlurm) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        slurm.run("node1", ["sleep", "62"], timeout=0.2)
    assert not any(process.command == "sleep 62" for process in slurm.processes("node1"))


def test_a_second_user_works_as_itself_and_reaches_python(slurm: MiniSlurm, shared_home: Path) -> None:
    user = f"{slurm.prefix}second"
    home = slurm.add_user(user)
    assert (home.owner(), home.stat().st_mode & 0o777) == (user, 0o700)
    assert srun(slurm, "-N2", "sh", "-c", "echo $(whoami):$HOME", user=user) == [f"{user}:{home}"] * 2
    repository = slurm.public_repository
    show = "import sys, cluster.errors; print(sys.executable, cluster.errors.__file__)"
    done = slurm.run("node1", [slurm.public_python, "-c", show], user=user, cwd=repository)
    assert done.stdout.split() == [str(slurm.public_python), f"{repository}/cluster/errors.py"], done.stderr
    done = slurm.run("node1", [slurm.public_python.with_name("ray"), "--version"], user=user)  # it imports ray
    assert done.returncode == 0, done.stderr
    assert slurm.run("node1", ["touch", repository / "cluster" / "x"], user=user).returncode != 0


def test_another_process_finds_the_cluster_by_its_directory(slurm: MiniSlurm) -> None:
    command = [sys.executable, "-m", "tests.support.mini_slurm", "--directory", str(slurm.directory), "exec", "node2"]

    def run(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, name], cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False)

    assert run("hostname").stdout == "node2\n"
    assert run("false").returncode == 1


def test_timeouts_can_be_changed_while_it_runs(slurm: MiniSlurm) -> None:
    def shown() -> str:
        return " ".join(slurm.run(LOGIN, ["scontrol", "show", "config"]).stdout.split())

    slurm.reconfigure(kill_wait=2, node_down=7)
    assert "KillWait = 2 sec" in shown()
    assert "SlurmdTimeout = 7 sec" in shown()
    slurm.reconfigure()
    assert f"SlurmdTimeout = {slurm.node_down} sec" in shown()


def test_two_clusters_coexist_and_one_goes_without_a_trace(slurm: MiniSlurm, tmp_path: Path) -> None:
    directory = Path(f"{slurm.directory}-b")
    base = MiniSlurm(nodes=1, gpus=0, share=(tmp_path,), repository=tmp_path, directory=directory)
    other = replace(base, net=f"10.{int(slurm.net.split('.')[1]) + 20}.0", prefix=f"{slurm.prefix}b")
    (tmp_path / "shared").touch()
    assert tmp_path.stat().st_mode & 0o777 == 0o700
    with other:
        other.add_user(f"{other.prefix}user")
        seen = other.run("node1", ["ls", other.public_repository], user=f"{other.prefix}user")
        assert seen.stdout.split() == ["shared"]
        assert srun(other, "ls", str(tmp_path)) == ["shared"]
        assert other.temp_entries("node1") == set()
        sleep = other.popen("node1", ["sleep", "63"])
        wait_until(lambda: running_with("63") == {sleep.pid}, 5, "sleep did not start")
        assert srun(slurm, "-N4", "true") == []
    assert sleep.wait(5) == -9
    assert srun(slurm, "-N4", "true") == []
    assert [path.name for path in directory.iterdir()] == ["log"]
    assert (tmp_path / "shared").exists()
    traces = [Path("/proc/self/mountinfo"), Path("/etc/passwd")]
    assert not any(f"{directory}/" in trace.read_text() for trace in traces)
    assert not Path(f"/sys/class/net/{other.prefix}host").exists()
    wait_until(lambda: not named_in_commands(f"{directory}/"), 5, "a process is left")


def named_in_commands(text: str) -> list[str]:
    shown = subprocess.run(["ps", "-e", "-o", "args="], capture_output=True, text=True, timeout=10, check=True)
    return [line for line in shown.stdout.splitlines() if text in line]
