"""Which of a cluster's nodes a training gets, and whether it fits: asked before anything is started.

Ray would wait for a GPU or a CPU that does not exist, in silence and for ever.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cluster.state import ClusterState
from orchestrator.errors import ClusterNotReady, SpecError
from orchestrator.planning.gpus import find_gpu, named_kinds
from orchestrator.ray_cluster.find import current
from orchestrator.training.spec import PpoSpec, SftSpec, TrainingSpec

Device = Literal["cuda", "cpu"]
# verl keeps 3 CPUs for each GPU of PPO (actor with critic and reference, rollout, reward model). On CPUs a process
# takes the one that stands for its GPU; so does each worker of Ray Train.
PPO_CPUS_PER_GPU = 3
MOST_STORAGE_UNITS = 8  # verl's default
QUEUE_CPUS = 1  # the controller of verl's TransferQueue; each of its storage units takes another
# Rollout servers, agent loops, reward workers and the task runner reserve nothing, but Ray starts such an actor only on
# a node that has a CPU free.
PPO_SPARE_CPUS = 1


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What a node has in all, used or not. `gpu_memory` in bytes of each GPU; None: not known."""

    name: str
    cpus: float
    gpus: int
    gpu_memory: float | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """The processes of a training: `per_node` on each of `nodes` nodes, a GPU each on `cuda`, of `gpu_memory` bytes."""

    device: Device
    nodes: int
    per_node: int
    reason: str
    gpu_memory: float | None = None  # None: not known

    @property
    def workers(self) -> int:
        return self.nodes * self.per_node

    def describe(self) -> str:
        unit = "a GPU" if self.device == "cuda" else "a CPU"
        nodes, processes = _count(self.nodes, "node"), _count(self.per_node, "process")
        return f"{nodes} with {processes} and {unit} for each ({self.reason})"


def known_nodes() -> list[NodeResources] | None:
    """As many nodes as the running cluster has by its state file, lost or not; None where no cluster of ours runs."""
    state = current()
    return of_state(state)[: state.expected_nodes] if state else None


def connected_nodes() -> list[NodeResources]:
    """The live nodes of the cluster that this process is connected to."""
    import ray

    return [_of_resources(node["NodeManagerHostname"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _of_resources(name: str, resources: Mapping[str, float]) -> NodeResources:
    gpus = int(resources.get("GPU", 0))
    return NodeResources(name, resources.get("CPU", 0), gpus, _gpu_memory(resources) if gpus else None)


def _gpu_memory(resources: Mapping[str, float]) -> float | None:
    """Bytes of the smallest kind of GPU among them; None where Ray names none, or one that we do not know."""
    try:
        return min((find_gpu(kind).memory for kind in named_kinds(resources)), default=None)
    except SpecError:
        return None


def place(spec: TrainingSpec, nodes: Sequence[NodeResources]) -> Placement:
    """Spread the workers evenly over as few nodes as they fit on; `auto` on GPUs takes the most that leave CPUs for
    verl's queue and divide the batch. Raises SpecError or ClusterNotReady with both sides of the sum and the key to
    change."""
    device, why = _device(spec, nodes)
    slots = sorted((_slots(spec, node, device) for node in nodes), reverse=True)
    wanted = [spec.workers] if spec.workers != "auto" else range(sum(slots), 0, -1) if device == "cuda" else [1]
    spread = [found for workers in wanted if (found := _spread(workers, slots))]
    if not spread:
        raise ClusterNotReady(_too_many(spec, wanted[0] if wanted else 0, nodes, device))
    memory = _least_memory(nodes) if device == "cuda" else None
    placements = [Placement(device, *found, why, memory) for found in spread]
    good = (place for place in placements if not _lacks_cpus(spec, place, nodes) and not _uneven(spec, place.workers))
    placement = next(good, placements[0])
    if lack := _lacks_cpus(spec, placement, nodes):
        raise ClusterNotReady(lack)
    if placement is placements[0]:
        return placement
    return replace(placement, reason=f"{why}; more would not divide the batch, or leave too few CPUs for verl's queue")


def _spread(workers: int, slots: Sequence[int]) -> tuple[int, int] | None:
    """As few nodes as these workers fit on evenly, and the workers of each; `slots` has the largest node first."""
    fits = (n for n, least in enumerate(slots, start=1) if workers % n == 0 and workers // n <= least)
    nodes = next(fits, None)
    return (nodes, workers // nodes) if nodes else None


def _least_memory(nodes: Sequence[NodeResources]) -> float | None:
    """Bytes of the smallest GPU; None where those of a node are not known."""
    known = [node.gpu_memory for node in nodes if node.gpus and node.gpu_memory]
    return min(known) if len(known) == sum(node.gpus > 0 for node in nodes) else None


def assume(spec: TrainingSpec) -> Placement:
    """What a check without a cluster goes by: the workers that the spec names, on nodes of 8 GPUs."""
    gpus = _gpus_here()
    device: Device = "cuda" if spec.device == "cuda" or (spec.device == "auto" and gpus) else "cpu"
    wanted = range(max(1, gpus), 0, -1) if spec.workers == "auto" and device == "cuda" else [1]
    workers = spec.workers if spec.workers != "auto" else _most_even(spec, wanted)
    per_node = next(count for count in range(min(8, workers), 0, -1) if workers % count == 0)
    return Placement(device, workers // per_node, per_node, "no cluster is running, so this is assumed, not checked")


def _most_even(spec: TrainingSpec, wanted: Sequence[int]) -> int:
    return next((workers for workers in wanted if not _uneven(spec, workers)), wanted[0])


def storage_units(workers: int) -> int:
    """Processes that hold the answers of a PPO step between its parts."""
    return min(MOST_STORAGE_UNITS, workers)


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else plural}"


def of_state(state: ClusterState) -> list[NodeResources]:
    """All nodes that a cluster ever had, those that were replaced too, the head first.

    Where its state file does not say how many CPUs a node has, only GPUs are compared.
    """
    return [
        NodeResources(node.name, float("inf") if node.cpus is None else node.cpus, node.gpus) for node in state.nodes
    ]


def _device(spec: TrainingSpec, nodes: Sequence[NodeResources]) -> tuple[Device, str]:
    gpus = sum(node.gpus for node in nodes)
    if spec.device == "cuda" and not gpus:
        raise ClusterNotReady(
            f"device=cuda, but none of the cluster's {len(nodes)} nodes has a GPU. Use a cluster with GPUs, or give "
            "device=auto"
        )
    if spec.device == "cpu" or not gpus:
        return "cpu", "device=cpu" if spec.device == "cpu" else "the cluster has no GPU"
    return "cuda", f"the cluster has {gpus} GPUs"


def _slots(spec: TrainingSpec, node: NodeResources, device: Device) -> int:
    """Workers that fit on a node."""
    cpus = min(node.cpus, 1e6) - (PPO_SPARE_CPUS if isinstance(spec, PpoSpec) else 0)
    most = int(cpus // _cpus_per_worker(spec, device))
    return max(0, most if device == "cpu" else min(node.gpus, most))


def _cpus_per_worker(spec: TrainingSpec, device: Device) -> int:
    return PPO_CPUS_PER_GPU if isinstance(spec, PpoSpec) and device == "cuda" else 1


def _too_many(spec: TrainingSpec, workers: int, nodes: Sequence[NodeResources], device: Device) -> str:
    unit = "CPU" if device == "cpu" else "GPU"
    seen = ", ".join(f"{node.name} {_seen(node, device)}" for node in nodes)
    needs = f"{_cpus_per_worker(spec, device)} CPUs and a GPU" if device == "cuda" else "a CPU"
    return (
        f"workers={workers or 'auto'} do not fit evenly on the cluster's nodes ({seen}): each worker needs {needs}. "
        f"Give workers= as many as nodes times {unit}s of a node"
    )


def _seen(node: NodeResources, device: Device) -> str:
    cpus = "" if node.cpus == float("inf") else f"{node.cpus:.0f} CPUs"
    return cpus if device == "cpu" else ", ".join(filter(None, [f"{node.gpus} GPUs", cpus]))


def _lacks_cpus(spec: TrainingSpec, placement: Placement, nodes: Sequence[NodeResources]) -> str | None:
    """PPO's queue needs CPUs beside those of the workers: what to say where there are too few."""
    if isinstance(spec, SftSpec):
        return None
    workers, queue = _worker_cpus(spec, placement), _queue_cpus(spec, placement)
    cpus = sum(node.cpus for node in nodes)
    if cpus >= workers + queue:
        return None
    return (
        f"PPO with workers={placement.workers} needs {workers + queue} CPUs ({workers} for the workers, {queue} "
        f"for verl's queue and helpers), the cluster has {cpus:.0f}. Give a smaller workers=, or more CPUs"
    )


def _worker_cpus(spec: TrainingSpec, placement: Placement) -> int:
    return placement.workers * _cpus_per_worker(spec, placement.device)


def _queue_cpus(spec: TrainingSpec, placement: Placement) -> int:
    return QUEUE_CPUS + storage_units(placement.workers) + PPO_SPARE_CPUS if isinstance(spec, PpoSpec) else 0


def lacking(
    spec: TrainingSpec, placement: Placement, nodes: Sequence[NodeResources], before: Sequence[NodeResources]
) -> str | None:
    """What `nodes` lack for a training that has its placement already, as a clause; None: nothing.

    `before`: the nodes that there were, so that the clause can name those that are gone.
    """
    gone = sorted(_names(before) - _names(nodes))
    needed = "that this training needs" + (f" (without {', '.join(gone)})" if gone else "")
    cpus = _worker_cpus(spec, placement) + _queue_cpus(spec, placement)
    sums = [("CPU", sum(node.cpus for node in nodes), cpus)]
    if placement.device == "cuda":
        sums.insert(0, ("GPU", sum(node.gpus for node in nodes), placement.workers))
    for unit, has, needs in sums:
        if has < needs:
            return f"the cluster has {has:.0f} of the {_count(needs, unit)} {needed}"
    fitting = sum(_slots(spec, node, placement.device) >= placement.per_node for node in nodes)
    if fitting < placement.nodes:
        room = f"with room for {_count(placement.per_node, 'process')} each"
        return f"the cluster has {fitting} of the {_count(placement.nodes, 'node')} {room} {needed}"
    return None


def _names(nodes: Sequence[NodeResources]) -> set[str]:
    """A scheduler's names have no domain, where a host's own may have one."""
    return {node.name.partition(".")[0] for node in nodes}


def check_division(spec: TrainingSpec, placement: Placement) -> None:
    """Every worker gets the same share of each batch. Raises SpecError."""
    if uneven := _uneven(spec, placement.workers):
        raise SpecError(uneven)


def _uneven(spec: TrainingSpec, workers: int) -> str | None:
    """What cannot be divided among so many workers."""
    rows, name = spec.batch_size, "batch_size"
    if isinstance(spec, PpoSpec):
        rows, name = spec.update_size * spec.n, "mini_batch_size" if spec.mini_batch_size else "batch_size"
        if workers % spec.rollout.tensor_parallel_size:
            return (
                f"workers={workers} is not a multiple of rollout.tensor_parallel_size="
                f"{spec.rollout.tensor_parallel_size}"
            )
    if rows % workers == 0:
        return None
    times = f" × {spec.n} answers" if isinstance(spec, PpoSpec) and spec.n > 1 else ""
    value = getattr(spec, name)
    return f"{name}={value}{times} cannot be divided evenly among {workers} workers. Change one of them"


def _gpus_here() -> int:
    """GPUs of this machine, on which a local cluster would be started."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    return len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])


def free(placement: Placement) -> bool:
    """Whether the cluster has as many free GPUs or CPUs now; a job that ends gives its own back a moment later."""
    import ray

    available: dict[str, Any] = ray.available_resources()
    return bool(available.get("GPU" if placement.device == "cuda" else "CPU", 0) >= placement.workers)
