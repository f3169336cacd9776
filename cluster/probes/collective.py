"""An all-reduce between processes, timed and checked: the main collective of training and tensor parallelism.

`all_reduce` is one rank of it and imports torch, so it belongs into a process of its own.
"""

import os
import statistics
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from cluster.probes.sweep import PERIOD, bus_factor, over_ranks, repetitions

Backend = Literal["nccl", "gloo"]
SMALL = 8  # bytes of the message whose time is the latency
LATENCY_ROUNDS = 20
# Bytes. The smaller one shows a link that stalls, the larger one its bandwidth: 128 MiB fill an H100's links, and a
# gigabit Ethernet carries 8 MiB in 70 ms.
SIZES: dict[Backend, tuple[int, ...]] = {"nccl": (2**20, 2**27), "gloo": (2**18, 2**23)}


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """The rendezvous of one process group, and the rank of this process in it."""

    backend: Backend
    ip: str  # of the host whose TCPStore introduces the ranks to each other
    port: int
    topic: str  # separates the process groups that use one store
    rank: int
    world_size: int
    device: int  # index of the GPU; unused with Gloo
    timeout: float  # seconds for each step


@dataclass(frozen=True, slots=True)
class Measured:
    """`latency` in seconds: the median time of an all-reduce of 8 bytes. `bus_bandwidth` in bytes/s by message size.

    The bus bandwidth is nccl-tests': see `bus_factor`.
    """

    correct: bool
    latency: float
    bus_bandwidth: dict[int, float]


def all_reduce(rendezvous: Rendezvous, environment: dict[str, str]) -> Measured:
    """Run one rank. `environment` chooses the interface. Raises RuntimeError, as torch does, when a peer fails."""
    os.environ.update({**environment, "NCCL_NVLS_ENABLE": "0", "TORCH_NCCL_BLOCKING_WAIT": "1"})
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    device = torch.device("cuda", rendezvous.device) if rendezvous.backend == "nccl" else torch.device("cpu")
    if rendezvous.backend == "nccl":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=rendezvous.timeout)
    store = dist.PrefixStore(
        rendezvous.topic, open_store(rendezvous.ip, rendezvous.port, rendezvous.timeout, serve=False)
    )
    dist.init_process_group(
        rendezvous.backend, store=store, rank=rendezvous.rank, world_size=rendezvous.world_size, timeout=timeout
    )
    try:
        return _measure(rendezvous, device)
    finally:
        dist.destroy_process_group()


def open_store(ip: str, port: int, timeout: float, *, serve: bool) -> Any:
    """torch's TCPStore at ip:port, as its server or as a client that waits `timeout` seconds for it.

    Raises RuntimeError when the port is taken, or when no process serves it in time.
    """
    import torch.distributed as dist

    return dist.TCPStore(ip, port, is_master=serve, timeout=timedelta(seconds=timeout), wait_for_workers=False)


def _measure(rendezvous: Rendezvous, device: Any) -> Measured:
    import torch

    small = torch.zeros(SMALL // 4, device=device)
    for _ in range(3):  # the first ones open the connections
        _timed(small)
    latency = statistics.median(_timed(small) for _ in range(LATENCY_ROUNDS))
    correct, bandwidth = True, {}
    for size in SIZES[rendezvous.backend]:
        pattern = torch.arange(size // 4, device=device, dtype=torch.float32) % PERIOD
        message = pattern * (rendezvous.rank + 1)
        first = over_ranks(_timed(message), "MAX", device)
        total = rendezvous.world_size * (rendezvous.world_size + 1) // 2
        correct = correct and bool(torch.equal(message, pattern * total))
        seconds = statistics.median(_timed(message.zero_()) for _ in range(repetitions(first)))
        if rendezvous.world_size > 1:  # alone, nothing is sent
            bandwidth[size] = size / seconds * bus_factor("all_reduce", rendezvous.world_size)
    return Measured(correct, latency, bandwidth)


def _timed(tensor: Any) -> float:
    """Seconds of one all-reduce, until its result is there."""
    import torch
    import torch.distributed as dist

    if tensor.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
