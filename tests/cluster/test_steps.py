"""What a step asks srun for, and what is made of a node that is missing."""

import pytest

from cluster.head.restart_workers import PATIENCE, TRIES, Repair
from cluster.schedulers.base import NodeState, Step
from cluster.schedulers.slurm_states import is_usable
from cluster.schedulers.slurm_step import cpus_per_node
from cluster.schedulers.step import LaunchedStep


@pytest.mark.parametrize(
    ("text", "counts"), [("64(x2),48", [64, 64, 48]), ("8,4", [8, 4]), ("16(x3)", [16] * 3), ("", [7] * 3)]
)
def test_every_host_has_its_own_number_of_cpus(text: str, counts: list[int]) -> None:
    hosts = [f"n{number}" for number in range(len(counts))]
    found = cpus_per_node(hosts, {"SLURM_JOB_CPUS_PER_NODE": text, "SLURM_CPUS_ON_NODE": "7"})
    assert list(found.values()) == counts


class Ended(LaunchedStep):
    """A step whose processes are gone already."""

    def __init__(self) -> None:
        self._processes = []

    def poll(self) -> int | None:
        return 1


@pytest.mark.parametrize("state", ["alloc*", "alloc*$", "alloc~", "mix#", "alloc%", "alloc^", "down", "boot", ""])
def test_a_missing_node_gets_a_few_steps_and_only_while_slurm_has_it(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    started: list[str] = []

    def start(host: str) -> Step:
        started.append(host)
        return Ended()

    repair = Repair(start, lambda hosts: dict.fromkeys(hosts, NodeState(state, is_usable(state))))
    repair.tick(["n1"])
    now = PATIENCE + 1
    assert repair.tick(["n1"]) == []
    state = "alloc$"  # in a reservation for maintenance, and it answers
    for _ in range(1000):
        now += 3
        repair.tick(["n1"])
    assert started == ["n1"] * TRIES
