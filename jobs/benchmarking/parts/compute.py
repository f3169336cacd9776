"""Every GPU's matrix product, memory and host copies; on a cluster without GPUs, every node's CPU.

The products and memory copies of all GPUs run at once, as they do in a training, so that a node's limits of power and
heat show. Host copies run on one GPU of a node after the other: they share the node's memory and PCIe switches, and
alone they show a GPU's own link.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.probes.compute import HostRates, Rates, measure_device, measure_host_copies
from cluster.probes.gpus import read_gpus
from jobs.benchmarking.results import Compute, DeviceRates
from jobs.benchmarking.spec import BenchSpec
from orchestrator.console import say
from orchestrator.errors import KosenError
from orchestrator.ray_cluster.connect import Cluster
from orchestrator.spec import first_line

START_SECONDS = 180.0  # until a device is free and torch imported, which takes minutes on a cold file system
MEASURE_SECONDS = 120.0  # a measurement takes about 5


class Prober:
    """Measures the GPU that Ray gives it, or its node's CPU."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda

    def prepare(self) -> int | None:
        """Import torch and wake the GPU; its index on the node."""
        import torch

        if not self._cuda:
            return None
        torch.ones(1, device="cuda")
        return _index(ray.get_runtime_context().get_accelerator_ids()["GPU"][0])

    def device(self) -> Rates:
        return measure_device(self._cuda)

    def host_copies(self) -> HostRates:
        return measure_host_copies()


@dataclass
class Probe:
    """One device and what is known of it so far; `problem` once something went wrong."""

    node: str
    number: int  # among its node's devices
    actor: Any
    index: int | None = None
    rates: Rates | None = None
    copies: HostRates | None = None
    problem: str | None = None


def measure(spec: BenchSpec, folder: Path, cluster: Cluster) -> None:
    """Write compute.json. Raises KosenError for devices that could not be measured, after all others were."""
    cuda = spec.settle_device(cluster.gpus) == "cuda"
    probes = _start(cuda)
    say(f"compute: matrix products and memory, all {'GPUs' if cuda else 'nodes'} at once ({len(probes)})")
    try:
        _ask(probes, "prepare", "index", START_SECONDS)
        _ask(probes, "device", "rates", MEASURE_SECONDS)
        _write(probes, folder)
        if cuda:
            say("compute: copies between hosts and GPUs, one GPU of a node at a time")
            for number in range(max(probe.number for probe in probes) + 1):
                _ask([probe for probe in probes if probe.number == number], "host_copies", "copies", MEASURE_SECONDS)
            _write(probes, folder)
    finally:
        for probe in probes:
            ray.kill(probe.actor)
    _check(probes)


def _start(cuda: bool) -> list[Probe]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    devices = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) if cuda else 1 for node in nodes}
    return [
        Probe(node["NodeManagerHostname"], number, _actor(node["NodeID"], cuda))
        for node in nodes
        for number in range(devices[node["NodeID"]])
    ]


def _actor(node_id: str, cuda: bool) -> Any:
    place = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    return ray.remote(num_cpus=0, num_gpus=int(cuda), scheduling_strategy=place)(Prober).remote(cuda)


def _ask(probes: Sequence[Probe], method: str, field: str, seconds: float) -> None:
    """Call `method` of all probes without a problem at once, and keep the answers in `field`."""
    calls = {getattr(probe.actor, method).remote(): probe for probe in probes if not probe.problem}
    if not calls:
        return
    done, late = ray.wait(list(calls), num_returns=len(calls), timeout=seconds)
    for call in done:
        try:
            setattr(calls[call], field, ray.get(call))
        except ray.exceptions.RayError as error:
            calls[call].problem = first_line(getattr(error, "cause", None) or error)
    for call in late:
        calls[call].problem = f"no answer within {seconds:.0f} s" + (
            ", perhaps another job holds it" if method == "prepare" else ""
        )


def _write(probes: Sequence[Probe], folder: Path) -> None:
    devices = [
        DeviceRates(
            node=probe.node,
            index=probe.index,
            **asdict(probe.rates),
            **(asdict(probe.copies) if probe.copies else {}),
        )
        for probe in probes
        if probe.rates
    ]
    Compute(devices=sorted(devices, key=lambda rates: (rates.node, rates.index or 0))).write(folder)


def _check(probes: Sequence[Probe]) -> None:
    problems = [f"{probe.node}, device {probe.number}: {probe.problem}" for probe in probes if probe.problem]
    if problems:
        raise KosenError(
            f"{len(problems)} of {len(probes)} devices could not be measured ({'; '.join(problems[:3])}). The others "
            "are in compute.json. Check `make cluster-status` and `make jobs`, then run the same command again"
        )


def _index(device: str) -> int | None:
    """Ray names a GPU by its index, or by its UUID where the scheduler gives those."""
    if device.isdigit():
        return int(device)
    gpus = read_gpus()
    return next((gpu.index for gpu in gpus.found if gpu.uuid.startswith(device)), None) if gpus else None
