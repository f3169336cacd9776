"""`up`, `status`, `env`, `down` on real Slurm, and what they say when they cannot."""

import json
import tempfile
from pathlib import Path

import pytest

from tests.support.slurm_harness import Kosen

pytestmark = pytest.mark.slow


def test_a_cluster_comes_up_is_described_and_leaves_nothing(kosen: Kosen) -> None:
    state = kosen.up(nodes=2)
    assert state["phase"] == "ready"
    assert [(node["cpus"], node["gpus"]) for node in state["nodes"]] == [(4, 4), (4, 4)]  # the allocation, not the node
    assert state["run_root"] == str(kosen.home / "runs")

    status = kosen.status()
    assert (status["verdict"], [node["ray"] for node in status["nodes"]]) == ("ready", ["alive", "alive"])
    assert all(node["slurm"] for node in status["nodes"])
    text = kosen.cluster("status").stdout
    assert "2 of 2 nodes" in text
    assert "time left" in text

    environment = kosen.cluster("env").stdout
    assert f"RAY_ADDRESS={state['ray_address']}" in environment
    assert "RAY_AUTH_MODE=token" in environment
    again = kosen.cluster("up", "--name", "c", *kosen.submit_arguments(2))  # it is there already
    assert again.returncode == 0
    assert "there already" in again.stderr
    assert "ssh -N" in again.stdout

    phases = [event["event"] for event in kosen.events()]
    assert phases[:5] == ["batch_started", "head_listening", "nodes_ready", "preflight_done", "ready"]
    assert kosen.cluster("down").returncode == 0
    kosen.assert_nothing_left()
    assert kosen.state() is None
    assert not (kosen.home / "clusters" / "c" / "token").exists()
    logs = kosen.home / "clusters" / "c" / "logs" / str(state["job_id"])
    assert {"node1.log", "node2.log"} <= {path.name for path in logs.iterdir()}
    assert (logs / "ray-node2" / "raylet.out").exists()  # Ray's own logs outlive its folder


def test_four_nodes(kosen: Kosen) -> None:
    state = kosen.up(nodes=4)
    assert len(state["nodes"]) == 4
    ready = next(event for event in kosen.events() if event["event"] == "ready")
    assert ready["seconds"] > 0


def test_preflight_checks_the_nodes_without_ray(kosen: Kosen) -> None:
    done = kosen.cluster("preflight", "--name", "c", *kosen.submit_arguments(3))
    assert done.returncode == 0, done.stderr + kosen.logs()
    assert "no NVIDIA driver" in done.stdout  # of the fake GPUs; a warning
    assert "links" in done.stdout.splitlines()[-1]
    kosen.assert_nothing_left()
    report = next((kosen.home / "clusters" / "c" / "logs").rglob("preflight.json"))
    findings = json.loads(report.read_text())["findings"]
    assert {finding["node"] for finding in findings} >= {"node1", "node2", "node3"}


def test_a_node_that_fails_a_check_is_named(kosen: Kosen) -> None:
    folder = Path(tempfile.mkdtemp(prefix="k", dir="/run"))  # short; on node2 it is too small for Ray
    kosen.slurm.run("node2", ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)])
    try:
        done = kosen.cluster("up", "--name", "c", *kosen.submit_arguments(2, f"temp_dir={folder}"))
        assert done.returncode == 4
        assert "node2" in done.stderr
        assert "temp dir" in done.stderr
        assert "Traceback" not in done.stderr
        kosen.assert_nothing_left()
    finally:
        kosen.slurm.run("node2", ["umount", str(folder)])
        folder.rmdir()
