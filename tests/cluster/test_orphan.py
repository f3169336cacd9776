"""What is left of a cluster whose head's node is lost, for its user and for a successor."""

from pathlib import Path

import pytest

from cluster.folder.cluster_folder import ClusterFolder
from cluster.node.head_watchdog import _give_up
from cluster.schedulers.slurm import Slurm
from cluster.state import ClusterState, Node, read_state, token_path, write_state, write_token


@pytest.fixture
def cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The jobs that were cancelled, each with whether the token was still there."""
    done: list[tuple[str, bool]] = []
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    monkeypatch.setattr(Slurm, "cancel", lambda _, job_id: done.append((job_id, token_path("c").exists())))
    nodes = [Node("node1", "10.0.0.1", cpus=1, gpus=0)]
    write_state(ClusterState("c", "ready", "slurm", "7", nodes, "", "", {}, "", "", host="node1"))
    write_token("c", "secret")
    return done


@pytest.mark.parametrize(("successor", "said"), [(None, "was cancelled"), ("8", "job 8 takes over")])
def test_the_loss_is_said_before_the_job_is_cancelled(
    cancelled: list[tuple[str, bool]], successor: str | None, said: str
) -> None:
    ClusterFolder("c").ledger("7").start()
    if successor:
        ClusterFolder("c").ledger("7").submitted(successor)
    _give_up(Slurm(), "c", "7")
    assert cancelled == [("7", False)]
    state = read_state("c")
    assert state and (state.phase, state.nodes) == ("failed", [])
    assert state.problem and "node1" in state.problem and state.problem.endswith(said)
    assert ClusterFolder("c").ledger().goes_on("7", lost=False)


def test_another_jobs_state_is_left_alone(cancelled: list[tuple[str, bool]]) -> None:
    before = read_state("c")
    _give_up(Slurm(), "c", "6")
    assert cancelled == [("6", True)]
    assert read_state("c") == before
