"""Collectives between all GPUs of the cluster, through torch.distributed on Ray Train's workers, as users run them.

Rank 0 writes collectives.json after each operation and after each round of node pairs. The folder is on a disk that all
nodes share, as run folders are.
"""

import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray

from cluster.probes.node_pairs import PairTiming, sweep_pairs
from cluster.probes.sweep import OPERATIONS, fitting, message_sizes, sweep
from jobs.benchmarking.parts import nccl_tests
from jobs.benchmarking.parts.nccl import environment
from jobs.benchmarking.results import Collectives, Device, Pair, Transfer
from jobs.benchmarking.spec import BenchSpec
from orchestrator.console import say
from orchestrator.errors import KosenError
from orchestrator.files import write_atomic
from orchestrator.ray_cluster.connect import Cluster
from orchestrator.training.trainer import ray_train

LARGEST: dict[Device, int] = {"cuda": 2**33, "cpu": 2**23}  # bytes
CPU_WORKERS = 2  # at least; one a node where there are more nodes
TIMEOUT = 300  # seconds that a rank waits for the others; 20 messages of 8 GB take 160 at 1 GB/s
PEER_SECONDS = 60 + len(OPERATIONS) * nccl_tests.PROGRAM_SECONDS
SEED_SIZES = (10**6, 10**7, 10**8, 10**9)  # bytes, of the seed's PyTorch test
SEED_FILE = "pytorch_test_results.json"


@dataclass(frozen=True, slots=True)
class SweepOrder:
    """What each rank is to measure."""

    folder: Path
    environment: dict[str, str]
    smallest: int  # bytes
    largest: int


@dataclass
class Notebook:
    """What rank 0 has so far; other ranks fill theirs alike and write nothing."""

    folder: Path
    rank: int
    found: Collectives
    left_out: list[str] = field(default_factory=list)

    def add(self, transfers: Sequence[Transfer] = (), pairs: Sequence[Pair] = ()) -> None:
        update = {"transfers": [*self.found.transfers, *transfers], "pairs": [*self.found.pairs, *pairs]}
        self.found = self.found.model_copy(update=update)
        if self.rank == 0:
            self.found.write(self.folder)


def measure(spec: BenchSpec, folder: Path, cluster: Cluster) -> None:
    """Write collectives.json and, in the seed's format, pytorch_test_results.json. Raises KosenError when a rank fails;
    what was measured until then is written."""
    device = spec.settle_device(cluster.gpus)
    nodes = sum(node["Alive"] for node in ray.nodes())
    workers = cluster.gpus if device == "cuda" else max(CPU_WORKERS, nodes)
    largest = spec.collectives.largest or LARGEST[device]
    order = SweepOrder(folder, environment(spec), spec.collectives.smallest, largest)
    say(f"collectives: {len(OPERATIONS)} operations of {order.smallest} to {largest} bytes between {workers} ranks")
    for sentence in _fit(order, workers, device):
        say(f"collectives: {sentence}")
    if device == "cuda":
        _add_peer(order, workers, nodes)


def _fit(order: SweepOrder, workers: int, device: Device) -> list[str]:
    """Run the ranks; sentences about what was left out."""
    os.environ.update(ray_train.SETTINGS)
    from ray.train import TrainingFailedError

    storage = order.folder / ".ray"
    try:
        trainer = ray_train.trainer(
            partial(run_rank, order),
            name="collectives",
            workers=workers,
            cpu=device == "cpu",
            timeout=TIMEOUT,
            storage=storage,
            placement="SPREAD" if device == "cpu" else "PACK",
        )
        left_out: list[str] = trainer.fit().return_value
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        _, why = ray_train.cause(error)
        raise KosenError(
            f"the collectives between {workers} ranks ended early: {why}. What was measured before is in "
            f"{order.folder / Collectives.file}. Check `make cluster-status` and `make jobs`, then run the same "
            "command again"
        ) from None
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    return left_out


def run_rank(order: SweepOrder) -> list[str]:
    """One rank of the measurement, which Ray Train runs; sentences about what was left out."""
    os.environ.update(order.environment)  # NCCL reads it at the first collective
    import ray.train.torch

    device, context = ray.train.torch.get_device(), ray.train.get_context()
    backend = Collectives(backend="gloo" if device.type == "cpu" else "nccl", transfers=[])
    notes = Notebook(order.folder, context.get_world_rank(), backend)
    _measure_operations(order, notes, device, context.get_world_size())
    if context.get_world_size() > context.get_local_world_size():
        _measure_pairs(order, notes, device)
    return notes.left_out


def _measure_operations(order: SweepOrder, notes: Notebook, device: Any, ranks: int) -> None:
    for operation in OPERATIONS:
        sizes = message_sizes(operation, order.smallest, order.largest, ranks)
        fit = fitting(operation, sizes, device)
        if too_large := sizes[len(fit) :]:
            notes.left_out.append(f"{operation} of {too_large[0]} bytes and more does not fit in the free memory")
        notes.add(transfers=[nccl_tests.transfer(timing) for timing in sweep(operation, fit, device)])
        if operation == "all_reduce" and notes.rank == 0:
            write_seed_format(notes.found.transfers, order.folder)


def _measure_pairs(order: SweepOrder, notes: Notebook, device: Any) -> None:
    fit = fitting("all_reduce", message_sizes("all_reduce", order.smallest, order.largest, 2), device)
    if not fit:
        notes.left_out.append("pairs of nodes were not measured: no size fits in the free memory")
        return
    node = ray.get_runtime_context().get_node_id()
    names = {entry["NodeID"]: entry["NodeManagerHostname"] for entry in ray.nodes()}
    for timings in sweep_pairs(names[node], fit[-1], device, TIMEOUT):
        notes.add(pairs=[_pair(timing) for timing in timings])


def _pair(timing: PairTiming) -> Pair:
    bandwidth = timing.large.bus_bandwidth
    assert bandwidth  # two ranks have one
    correct = timing.small.correct and timing.large.correct
    return Pair(nodes=timing.nodes, latency=timing.small.seconds, bus_bandwidth=bandwidth, correct=correct)


def write_seed_format(transfers: Sequence[Transfer], folder: Path) -> None:
    """The all-reduces nearest to the seed's four sizes, GB of 1e9 bytes and, of the bus bandwidth, Gbit/s.

    A size that is more than a factor of 2 away from every measured one is left out.
    """
    reduces = [transfer for transfer in transfers if transfer.operation == "all_reduce"]
    distances = [(wanted, row, abs(math.log2(row.size / wanted))) for wanted in SEED_SIZES for row in reduces]
    nearest = [min((d for d in distances if d[0] == wanted), key=lambda d: d[2], default=None) for wanted in SEED_SIZES]
    rows = [
        {
            "size_gb": row.size / 1e9,
            "time_ms": row.seconds * 1e3,
            "bandwidth_gbps": row.bus_bandwidth * 8 / 1e9 if row.bus_bandwidth else None,
        }
        for _, row, distance in filter(None, nearest)
        if distance < 1
    ]
    write_atomic(folder / SEED_FILE, json.dumps(rows, indent=2) + "\n")


def _add_peer(order: SweepOrder, gpus: int, nodes: int) -> None:
    """Put nccl-tests' own figures beside ours."""
    if nodes > 1:
        say("nccl-tests: not measured, since over several nodes it needs MPI")
        return
    task = ray.remote(num_cpus=0, num_gpus=gpus)(nccl_tests.run)
    call = task.remote(order.smallest, order.largest, gpus, order.environment)
    try:
        peer = ray.get(call, timeout=PEER_SECONDS)
    except ray.exceptions.RayError as error:
        ray.cancel(call)  # it may still wait for GPUs
        say(f"nccl-tests: not measured: {ray_train.cause(error)[1]}")
        return
    for sentence in peer.missing:
        say(sentence)
    found = Collectives.read(order.folder)
    assert found
    found.model_copy(update={"peer": peer.transfers}).write(order.folder)
