"""Clusters of one user and of two users side by side on the same nodes."""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from tests.support.mini_slurm import LOGIN, MiniSlurm
from tests.support.slurm_harness import UP_SECONDS, Finished, Kosen, ended

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NODES = ("node1", "node2")
LOOK = """
import json, ray
from orchestrator.ray_cluster.connect import connect
with connect():
    nodes = [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in ray.nodes() if node["Alive"]]
    print(json.dumps({"nodes": nodes, "resources": ray.cluster_resources()}))
"""


@pytest.fixture(scope="module")
def both(slurm: MiniSlurm) -> Iterator[Kosen]:
    """Two ready clusters of one user, c and d, each with half of node1 and node2."""
    home = Path(tempfile.mkdtemp(dir=slurm.directory / "home"))
    kosen = Kosen(slurm, home)
    with ended(kosen, ("c", "d")):
        kosen.up("c", 2, "nodelist=node[1-2]")
        kosen.up("d", 2, "nodelist=node[1-2]")
        yield kosen
    shutil.rmtree(home)


@dataclass(frozen=True)
class User:
    """A person without privileges, who works on the login node and keeps everything in a home folder."""

    slurm: MiniSlurm
    name: str
    home: Path

    def run(self, *arguments: str, node: str = LOGIN, **environment: str) -> Finished:
        python = [str(self.slurm.public_python), *arguments]
        variables = {"PYTHONPATH": str(self.slurm.public_repository), **environment}
        return self.slurm.run(node, python, user=self.name, cwd=self.home, env=variables, timeout=UP_SECONDS)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.home / ".kosen" / "clusters" / "u" / "state.json").read_text())
        return state

    def may_read(self, path: Path, node: str = "node1") -> bool:
        reader = "cat" if path.is_file() else "ls"
        return self.slurm.run(node, [reader, path], user=self.name).returncode == 0


def new_user(slurm: MiniSlurm, suffix: str) -> User:
    name = f"{slurm.prefix}{suffix}"
    return User(slurm, name, slurm.add_user(name))


def blocks(folder: Path) -> dict[str, range]:
    """The ports of each node of a cluster, as its nodes published them."""
    reports = [json.loads(file.read_text()) for file in sorted(folder.glob("logs/*/node-node*.json"))]
    return {report["host"]: range(report["ports"]["gcs"], report["ports"]["worker_max"] + 2) for report in reports}


def run_job(kosen: Kosen, name: str) -> str:
    """What a Ray Job prints, submitted as `python -m cluster env` and Ray's own command do it."""
    exports = dict(re.findall(r"export (\w+)=(\S+)", kosen.cluster("env", "--name", name).stdout))
    done = kosen.run("ray.scripts.scripts", "job", "submit", "--", "echo", "it-works", timeout=90, **exports)
    assert done.returncode == 0, done.stderr
    return done.stdout


def owned_by(slurm: MiniSlurm, job: str) -> set[tuple[str, int]]:
    """Node and pid of all processes that have a cluster's batch job in their command line (its folder's name)."""
    mark = re.compile(rf"/kosen-\d+-{job}-")
    return {(node, process.pid) for node in NODES for process in slurm.processes(node) if mark.search(process.command)}


def test_two_clusters_of_one_user_share_nodes_and_nothing_else(both: Kosen) -> None:
    c, d = (both.status(name) for name in ("c", "d"))
    assert (c["verdict"], d["verdict"]) == ("ready", "ready")
    ports = [blocks(both.home / "clusters" / name) for name in ("c", "d")]
    for node in NODES:
        assert not set(ports[0][node]) & set(ports[1][node])
    tokens = {(both.home / "clusters" / name / "token").read_text() for name in ("c", "d")}
    assert len(tokens) == 2


def test_a_driver_sees_its_own_cluster_only(both: Kosen) -> None:
    d = both.state("d")
    assert d
    environment = {"KOSEN_HOME": str(both.home), "KOSEN_CLUSTER": "d", "PYTHONPATH": str(REPOSITORY)}
    done = both.slurm.run("node1", [sys.executable, "-c", LOOK], env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    ports = {node: block.start for node, block in blocks(both.home / "clusters" / "d").items()}
    offset = d["ports"]["node_manager"] - d["ports"]["gcs"]
    assert sorted(map(tuple, seen["nodes"])) == [(both.slurm.address(node), ports[node] + offset) for node in NODES]
    assert (seen["resources"]["CPU"], seen["resources"]["GPU"]) == (8, 8)


def test_without_a_name_nobody_guesses(both: Kosen) -> None:
    for module, *arguments in (["cluster", "status"], ["cluster", "down"], ["orchestrator.submit", "list"]):
        done = both.run(module, *arguments)
        assert done.returncode in (2, 4)
        assert "several clusters" in done.stderr and "c, d" in done.stderr


def test_down_ends_one_cluster_and_leaves_the_other_alone(both: Kosen) -> None:
    c, d = both.state("c"), both.state("d")
    assert c and d
    before = owned_by(both.slurm, str(d["job_id"]))
    assert len(before) > 6
    assert both.cluster("down", "--name", "c").returncode == 0
    assert owned_by(both.slurm, str(c["job_id"])) == set()
    assert before <= owned_by(both.slurm, str(d["job_id"]))
    assert both.status("d")["verdict"] == "ready"
    assert "it-works" in run_job(both, "d")


@pytest.fixture(scope="module")
def person(both: Kosen, slurm: MiniSlurm) -> Iterator[User]:
    """A second user with a cluster u on the nodes on which root's d still runs."""
    person = new_user(slurm, "anna")
    bring_up(person)
    yield person
    person.run("-m", "cluster", "down", "--name", "u")


def bring_up(person: User) -> None:
    """With half of each node, as the harness does it for root."""
    arguments = Kosen(person.slurm, person.home).submit_arguments(2, "nodelist=node[1-2]")
    done = person.run("-m", "cluster", "up", "--name", "u", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def submit(person: User) -> Finished:
    exports = dict(re.findall(r"export (\w+)=(\S+)", person.run("-m", "cluster", "env", "--name", "u").stdout))
    return person.run("-m", "ray.scripts.scripts", "job", "submit", "--", "whoami", **exports)


def test_a_second_user_works_beside_root(both: Kosen, person: User) -> None:
    assert both.status("d")["verdict"] == "ready"
    done = submit(person)
    assert done.returncode == 0, done.stderr
    assert person.name in done.stdout
    assert "it-works" in run_job(both, "d")
    theirs = [process for node in NODES for process in both.slurm.processes(node) if process.user == person.name]
    assert len(theirs) > 6
    ports = blocks(person.home / ".kosen" / "clusters" / "u")
    for node, block in blocks(both.home / "clusters" / "d").items():
        assert not set(block) & set(ports[node])


def test_neither_can_read_the_others_token_state_or_logs(both: Kosen, person: User, slurm: MiniSlurm) -> None:
    """Root reads everything by nature, so a third user looks at the second one's."""
    third = new_user(slurm, "boris")
    for reader, folder in ((person, both.home / "clusters" / "d"), (third, person.home / ".kosen" / "clusters" / "u")):
        for path in (folder, folder / "token", folder / "state.json", folder / "request.json", folder / "logs"):
            assert path.exists()
            assert not reader.may_read(path), (reader.name, path)
    assert person.may_read(person.home / ".kosen" / "clusters" / "u" / "token")
    folders = [Path("/tmp", name) for name in slurm.temp_entries("node1") if name.startswith("kosen-")]
    assert len(folders) == 2
    assert [third.may_read(folder) for folder in folders] == [False, False]
    assert sorted(person.may_read(folder) for folder in folders) == [False, True]
    assert "ray" not in slurm.temp_entries("node1") | slurm.temp_entries("node2")


def test_a_second_users_token_opens_only_the_second_users_cluster(both: Kosen, person: User) -> None:
    d = both.state("d")
    assert d
    token = person.home / ".kosen" / "clusters" / "u" / "token"
    environment = {"RAY_ADDRESS": d["dashboard_url"], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    done = person.run("-m", "ray.scripts.scripts", "job", "list", **environment)
    assert done.returncode != 0
    assert "Invalid authentication token" in done.stderr


def test_each_users_down_leaves_the_others_alone(both: Kosen, person: User) -> None:
    u, d = person.state(), both.state("d")
    assert d
    before = owned_by(both.slurm, str(d["job_id"]))
    assert person.run("-m", "cluster", "down", "--name", "u").returncode == 0
    assert owned_by(both.slurm, u["job_id"]) == set()
    assert before <= owned_by(both.slurm, str(d["job_id"]))
    assert both.status("d")["verdict"] == "ready"

    bring_up(person)
    before = owned_by(both.slurm, person.state()["job_id"])
    assert both.cluster("down", "--name", "d").returncode == 0
    assert owned_by(both.slurm, str(d["job_id"])) == set()
    assert before <= owned_by(both.slurm, person.state()["job_id"])
    assert submit(person).returncode == 0
    assert person.run("-m", "cluster", "down", "--name", "u").returncode == 0
    both.assert_nothing_left()
