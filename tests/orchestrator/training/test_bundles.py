"""Placement: workers against the nodes of a cluster, and the sentences when they do not fit."""

from pathlib import Path

import pytest

from orchestrator.errors import ClusterNotReady, KosenError, SpecError
from orchestrator.planning.gpus import find_gpu
from orchestrator.spec import load_spec
from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.config import placement
from orchestrator.training.config.placement import NodeResources, Placement, place
from orchestrator.training.folder import TrainingFolder
from orchestrator.training.spec import PpoSpec, SftSpec
from orchestrator.training.supervision import run
from tests.support.harness import state_with

LAPTOP = [NodeResources("laptop", 16, 0)]
PAIR = [NodeResources("a", 128, 8), NodeResources("b", 128, 8)]
REQUIRED = ["model=m", "train=t.jsonl"]


def sft(*overrides: str) -> SftSpec:
    return load_spec(SftSpec, None, [*REQUIRED, *overrides])


def ppo(*overrides: str) -> PpoSpec:
    return load_spec(PpoSpec, None, [*REQUIRED, *overrides])


@pytest.mark.parametrize(
    ("nodes", "overrides", "device", "count", "per_node"),
    [
        (LAPTOP, [], "cpu", 1, 1),
        (LAPTOP, ["workers=4"], "cpu", 1, 4),
        (PAIR, [], "cuda", 2, 8),
        (PAIR, ["workers=8"], "cuda", 1, 8),
        (PAIR, ["workers=12"], "cuda", 2, 6),
        (PAIR, ["device=cpu", "workers=2"], "cpu", 1, 2),
        ([*PAIR, NodeResources("c", 128, 4)], [], "cuda", 2, 8),  # as many on each node
        ([*PAIR, NodeResources("head", 16, 0)], [], "cuda", 2, 8),  # a head without GPUs takes none
    ],
)
def test_workers_are_spread_evenly_over_as_few_nodes_as_they_fit_on(
    nodes: list[NodeResources], overrides: list[str], device: str, count: int, per_node: int
) -> None:
    found = place(sft(*overrides), nodes)
    assert (found.device, found.nodes, found.per_node) == (device, count, per_node)


@pytest.mark.parametrize(
    ("kinds", "memory"),
    [
        (["H200", "H200"], "h200"),
        (["H200", "H100"], "h100"),  # the smallest counts
        (["H200", None], None),
        (["H200", "B9000"], None),
        ([None], None),
    ],
)
def test_the_gpus_memory_is_that_of_the_kind_that_ray_names(
    kinds: list[str | None], memory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = [{"CPU": 64.0, "GPU": 8.0} | ({f"accelerator_type:{kind}": 1.0} if kind else {}) for kind in kinds]
    resources.append({"CPU": 16.0})  # a head without GPUs
    nodes = [{"NodeManagerHostname": str(n), "Alive": True, "Resources": has} for n, has in enumerate(resources)]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    found = place(sft(), placement.connected_nodes())
    assert found.gpu_memory == (find_gpu(memory).memory if memory else None)
    assert place(sft("device=cpu"), placement.connected_nodes()).gpu_memory is None


@pytest.mark.parametrize(
    ("spec", "nodes", "parts"),
    [
        (sft("workers=17"), LAPTOP, ["workers=17", "laptop 16 CPUs"]),
        (sft("workers=24"), PAIR, ["workers=24", "a 8 GPUs", "b 8 GPUs"]),
        (sft("device=cuda"), LAPTOP, ["device=cuda", "has a GPU"]),
        (ppo("workers=8"), [NodeResources("thin", 12, 8)], ["workers=8", "thin 8 GPUs, 12 CPUs", "3 CPUs and a GPU"]),
        (ppo("workers=8"), [NodeResources("full", 24, 8)], ["full 8 GPUs, 24 CPUs"]),  # 3 × 8, and none is left free
        (ppo("workers=14"), LAPTOP, ["needs 24 CPUs", "has 16", "workers="]),
    ],
)
def test_what_does_not_fit_says_what_there_is_and_what_is_needed(
    spec: SftSpec | PpoSpec, nodes: list[NodeResources], parts: list[str]
) -> None:
    with pytest.raises(ClusterNotReady) as error:
        place(spec, nodes)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        (sft("batch_size=10"), "batch_size=10"),
        (ppo("batch_size=64", "mini_batch_size=4"), "mini_batch_size=4"),
        (ppo("rollout.tensor_parallel_size=3"), "tensor_parallel_size=3"),
    ],
)
def test_shares_of_a_batch_are_equal(spec: SftSpec | PpoSpec, part: str) -> None:
    with pytest.raises(SpecError) as error:
        placement.check_division(spec, Placement("cuda", 1, 8, ""))
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("spec", "nodes", "count", "per_node"),
    [
        (ppo(), [NodeResources("thin", 16, 8)], 1, 2),  # 3 fit beside the queue, and do not divide 256 prompts
        (ppo("batch_size=255"), [NodeResources("thin", 16, 8)], 1, 3),
        (ppo(), [NodeResources("full", 24, 8)], 1, 4),
        (ppo(), [NodeResources("wide", 64, 8)], 1, 8),
        (
            ppo(),
            [NodeResources("a", 16, 8), NodeResources("b", 16, 8)],
            1,
            4,
        ),  # 4 and 12 CPUs of theirs, and 6 for the queue
        (ppo("algorithm=grpo", "batch_size=3", "rollout.n=2"), [NodeResources("wide", 64, 8)], 1, 6),
        (ppo("rollout.tensor_parallel_size=4", "batch_size=12"), [NodeResources("wide", 64, 8)], 1, 4),
        (ppo("mini_batch_size=64", "batch_size=192"), [NodeResources("a", 36, 3), NodeResources("b", 36, 3)], 2, 2),
        (sft("batch_size=250"), PAIR, 2, 5),
        (sft(), [NodeResources("odd", 64, 7)], 1, 4),
        (sft("batch_size=7"), [NodeResources("odd", 64, 7)], 1, 7),
    ],
)
def test_auto_takes_the_most_that_fits_and_divides_the_batch(
    spec: SftSpec | PpoSpec, nodes: list[NodeResources], count: int, per_node: int
) -> None:
    found = place(spec, nodes)
    placement.check_division(spec, found)
    assert (found.nodes, found.per_node) == (count, per_node)


def test_auto_says_why_it_takes_fewer_and_what_it_lacks_where_none_fit() -> None:
    assert "more would not divide the batch" in place(ppo(), [NodeResources("thin", 16, 8)]).describe()
    with pytest.raises(ClusterNotReady, match="thin 8 GPUs, 3 CPUs"):
        place(ppo(), [NodeResources("thin", 3, 8)])
    with pytest.raises(ClusterNotReady, match=r"workers=1 needs 6 CPUs .* has 4"):
        place(ppo(), [NodeResources("thin", 4, 8)])
    with pytest.raises(SpecError, match="tensor_parallel_size=16"):
        spec = ppo("rollout.tensor_parallel_size=16")
        placement.check_division(spec, place(spec, [NodeResources("wide", 64, 8)]))


def test_grpo_divides_answers_not_prompts() -> None:
    placement.check_division(ppo("algorithm=grpo", "rollout.n=8", "batch_size=4"), Placement("cuda", 1, 8, ""))


def test_without_a_cluster_the_spec_is_taken_at_its_word() -> None:
    assert placement.assume(sft("workers=16", "device=cuda")).per_node == 8
    assert placement.assume(sft("workers=6", "device=cpu")).describe().startswith("1 node with 6 processes and a CPU")


FOUR = [NodeResources("node1", 4, 0), NodeResources("node2.cluster", 4, 0)]


@pytest.mark.parametrize(
    ("spec", "nodes", "now", "sentence"),
    [
        (sft("workers=6"), FOUR, FOUR, None),
        (sft("workers=6"), FOUR, [*FOUR[:1], NodeResources("node3", 8, 0)], None),  # replaced
        (sft("workers=6"), FOUR, FOUR[:1], "has 4 of the 6 CPUs that this training needs (without node2)"),
        (
            sft("workers=8"),
            FOUR,
            [*FOUR[:1], NodeResources("thin", 2, 0), NodeResources("slim", 2, 0)],
            "has 1 of the 2 nodes with room",
        ),
        (sft(), PAIR, PAIR[1:], "has 8 of the 16 GPUs that this training needs (without a)"),
        (sft(), PAIR, [], "has 0 of the 16 GPUs that this training needs (without a, b)"),
        (sft("workers=8"), PAIR, PAIR[1:], None),  # the other one serves as well
        (ppo("workers=4"), FOUR[:1] * 3, FOUR[:1] * 2, "has 8 of the 10 CPUs that this training needs"),
        (ppo(), PAIR, PAIR[1:], "has 8 of the 16 GPUs"),
    ],
)
def test_what_a_cluster_lacks_for_a_training_that_was_placed(
    spec: SftSpec | PpoSpec, nodes: list[NodeResources], now: list[NodeResources], sentence: str | None
) -> None:
    found = placement.lacking(spec, place(spec, nodes), now, nodes)
    assert found is None if sentence is None else found and found.startswith(f"the cluster {sentence}")


def test_nodes_that_were_replaced_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"name": name, "ip": "10.0.0.1", "cpus": 128, "gpus": 8} for name in ("a", "lost", "new")]
    monkeypatch.setattr(placement, "current", lambda: state_with(nodes=nodes, expected_nodes=2))
    assert place(sft(), placement.known_nodes() or []).workers == 16


def test_a_training_that_goes_on_keeps_its_placement_while_nodes_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TrainingFolder(tmp_path)
    nodes = [{"name": node.name, "ip": "10.0.0.1", "cpus": 128, "gpus": 8} for node in PAIR]
    state = state_with(nodes=nodes, expected_nodes=2)
    monkeypatch.setattr(run, "connected_nodes", lambda: PAIR[:1])
    assert run._place(sft(), folder, state)[0].workers == 8  # nothing is bound to more yet
    folder.verl_config.write_text("trainer: {device: cuda, nnodes: 2, n_gpus_per_node: 8}")
    checkpoint = checkpoints.path_of(folder.checkpoints, 4)
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(b"w")
    checkpoints.seal(checkpoint)
    placement, missing = run._place(sft(), folder, state)
    assert (placement.nodes, placement.per_node) == (2, 8)
    assert missing() == "the cluster has 8 of the 16 GPUs that this training needs (without b)"
    monkeypatch.setattr(run, "connected_nodes", lambda: PAIR)
    assert missing() is None
    monkeypatch.setattr(run, "connected_nodes", lambda: PAIR[:1])
    assert run._place(sft("workers=8"), folder, state)[0].workers == 8  # which is refused later


def test_a_state_file_without_cpus_is_checked_for_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_with(nodes=[{"name": name, "ip": "10.0.0.1", "gpus": 8} for name in ("a", "b")])
    monkeypatch.setattr(placement, "current", lambda: state)
    nodes = placement.known_nodes()
    assert nodes and place(ppo(), nodes).workers == 16
    with pytest.raises(KosenError):
        place(ppo("workers=17"), nodes)
