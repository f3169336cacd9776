"""A real Slurm cluster for a whole test session, and a cluster that is not there."""

import dataclasses
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from cluster.state import ClusterState, Node, write_token
from tests.support.mini_slurm import MiniSlurm, missing
from tests.support.scripted_cluster import TOKEN, Answering, Dashboard, ScriptedSlurm, answers
from tests.support.slurm_harness import Kosen, ended

SESSIONS = 8  # test sessions at the same time on one machine


@contextmanager
def free_slot() -> Iterator[int]:
    """A number that no other test session on this machine has."""
    for slot in range(SESSIONS):
        with Path(f"/run/kosen-slurm-test{slot}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield slot
            return
    pytest.skip(f"{SESSIONS} other test sessions have their Slurm clusters on this machine")


@pytest.fixture(scope="session")
def slurm() -> Iterator[MiniSlurm]:
    """Four nodes with 8 fake GPUs each; an allocation chooses how many it wants."""
    if reason := missing():
        pytest.skip(reason)
    with free_slot() as slot:
        cluster = MiniSlurm(
            nodes=4,
            node_down=300,  # Slurm's default; a node that a busy machine brings back late must not be given up
            share=(REPOSITORY,),
            repository=REPOSITORY,
            directory=Path(f"/var/lib/kosen-slurm-test{slot}"),
            net=f"10.{91 + slot}.0",
            prefix=f"kt{slot}",
        )
        with cluster:
            yield cluster


@pytest.fixture
def shared_home(slurm: MiniSlurm) -> Iterator[Path]:
    """A fresh folder that all nodes and this machine see, as KOSEN_HOME."""
    home = Path(tempfile.mkdtemp(dir=slurm.directory / "home"))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def kosen(slurm: MiniSlurm, shared_home: Path) -> Iterator[Kosen]:
    """`python -m cluster` with a state folder of its own; the clusters c and d are brought down at the end."""
    kosen = Kosen(slurm, shared_home)
    with ended(kosen, ("c", "d")):
        yield kosen


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """Makes the state of a two-node Slurm cluster whose dashboard answers with the given nodes."""
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    servers = []

    def make(in_ray: Sequence[dict[str, Any]], **changes: Any) -> ClusterState:
        handler = type("Answering", (Dashboard,), {"answers": answers(in_ray)})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        port = servers[-1].server_address[1]
        write_token("c", TOKEN)
        state = ClusterState(
            name="c",
            phase="ready",
            scheduler="slurm",
            job_id="7",
            nodes=[Node(f"n{number}", f"10.0.0.{number}", cpus=64, gpus=2) for number in (1, 2)],
            ray_address="10.0.0.1:20000",
            dashboard_url=f"http://127.0.0.1:{port}",
            ports={"dashboard": port, "serve": 20009},
            run_root="/runs",
            started_at="2026-01-01T00:00:00+00:00",
            site="osk",
            expected_nodes=2,
        )
        return dataclasses.replace(state, **changes)

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def scripted_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedSlurm:
    """Puts commands on PATH that speak like Slurm's; the argument is what `scontrol show job` does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(show_job: str) -> None:
        hosts = 'case "$2" in hostnames) echo n1; echo n2; exit;; esac'
        scripts = {"scontrol": f"{hosts}\n{show_job}", "sinfo": "echo 'n1 alloc'; echo 'n2 down*'"}
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    make("echo JobId=7 JobState=RUNNING Reason=None NodeList=n[1-2] TimeLimit=04:00:00 RunTime=01:30:00 ExitCode=0:0")
    return make
