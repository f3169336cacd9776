"""How fast one device computes, moves its own memory and exchanges it with its host. Imports torch only when it runs.

The matrices are random: a product of zeros draws less power and runs faster. A CPU is measured with all cores that
this process may use.
"""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.probes.stopwatch import batch_seconds

SECONDS = 0.7  # of repetitions; then a GPU's clock has come down to what its power allows
WARM_UP = 3
SIZES = {"cuda": 8192, "cpu": 1024}  # rows and columns of the matrices
DTYPES = {"cuda": "bfloat16", "cpu": "float32"}
COPIED = {"cuda": 2 * 2**30, "cpu": 2**26}  # bytes; far more than a cache holds on a GPU, and than a core's on a CPU
PINNED = 2**30  # bytes that host and GPU exchange


@dataclass(frozen=True, slots=True)
class Rates:
    """`matmul` in FLOP/s, 2N**3 of them a product; `memory` in bytes/s, read and written ones together."""

    name: str
    dtype: str
    matmul: float
    memory: float


@dataclass(frozen=True, slots=True)
class HostRates:
    """Bytes/s between pinned memory of the host and the GPU."""

    host_to_device: float
    device_to_host: float


def measure_device(cuda: bool) -> Rates:
    """The first GPU that this process sees, or the CPU. Raises RuntimeError, as torch does, for a GPU in trouble."""
    import torch

    kind = "cuda" if cuda else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # Ray allows its workers one
    size, dtype = SIZES[kind], getattr(torch, DTYPES[kind])
    left, right = (torch.randn(size, size, device=kind, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    matmul = 2 * size**3 / _seconds(lambda: torch.mm(left, right, out=product), cuda)
    source = torch.ones(COPIED[kind], device=kind, dtype=torch.uint8)
    target = torch.empty_like(source)
    memory = 2 * COPIED[kind] / _seconds(lambda: target.copy_(source), cuda)
    name = torch.cuda.get_device_name() if cuda else _processor()
    return Rates(name, DTYPES[kind], matmul, memory)


def measure_host_copies() -> HostRates:
    """Of the first GPU that this process sees. Raises RuntimeError, as torch does, for a GPU in trouble."""
    import torch

    host = torch.ones(PINNED, dtype=torch.uint8).pin_memory()
    device = torch.ones(PINNED, device="cuda", dtype=torch.uint8)
    to_device = _seconds(lambda: device.copy_(host, non_blocking=True), cuda=True)
    to_host = _seconds(lambda: host.copy_(device, non_blocking=True), cuda=True)
    return HostRates(PINNED / to_device, PINNED / to_host)


def _seconds(run: Callable[[], Any], cuda: bool) -> float:
    """Of one run, the mean over as many as `SECONDS` take."""
    batch_seconds(run, WARM_UP, cuda=cuda)
    count = max(1, round(SECONDS / batch_seconds(run, 1, cuda=cuda)))
    return batch_seconds(run, count, cuda=cuda) / count


def _processor() -> str:
    """The CPU's name as Linux has it, else the architecture's."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
