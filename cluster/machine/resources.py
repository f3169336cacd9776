"""What a node may use: CPUs, GPUs and memory of the allocation, where Ray by itself would take all of the machine."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

OBJECT_STORE_SHARE = 0.3  # Ray's own default; the rest of /dev/shm is for NCCL, PyTorch and vLLM
OBJECT_STORE_LEAST = 100 * 1024**2  # bytes; Ray refuses less than 75 MiB, and uses /tmp where /dev/shm is small
# Bytes. Model weights never pass through the store. The largest thing that does is a batch of PPO: 1024 prompts x 8
# answers x 16k tokens x 5 tensors of 8 bytes are 5 GiB, so a few of them fit; beyond that Ray spills to disk.
OBJECT_STORE_MOST = 32 * 1024**3
OBJECT_STORE_LOCAL = 2 * 1024**3  # bytes; the machine is also somebody's desk
RAY_RESERVE = (
    2 * 1024**3
)  # bytes; GCS, raylet, dashboard and agents of an idle head take under 1 GiB and grow with tasks
NO_DEVICE = ("", "-1", "NoDevFiles", "none", "void")  # Slurm's and CUDA's words for "none"
TYPED_COUNTS = re.compile(r"(?:[\w.:-]+:)?[0-9]+(?:,(?:[\w.:-]+:)?[0-9]+)*", re.ASCII)  # 8, h100:8 or a100:4,h100:4
MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Resources:
    """What Ray is told of one node. `memory` and `object_store` are bytes and do not overlap."""

    cpus: int
    gpus: int
    memory: int
    object_store: int


def from_allocation(environment: Mapping[str, str], *, exclusive: bool = True) -> Resources:
    """The share of this node that Slurm's variables in `environment`, the control group and the machine allow.

    Of GPUs that Slurm says nothing of, those of an `exclusive` node are ours; else they may be a neighbour's.
    """
    cpus = _number(environment, "SLURM_CPUS_ON_NODE") or len(os.sched_getaffinity(0))
    gpus = count_gpus(environment, exclusive=exclusive)
    allocated = _allocated_memory(environment, cpus, gpus)
    return _divide(cpus, gpus, min(allocated or memory_limit(), memory_limit()), OBJECT_STORE_MOST)


def local_resources() -> Resources:
    """The share of this machine that a local cluster takes; a scheduler's variables do not count."""
    visible = {key: value for key, value in os.environ.items() if key == "CUDA_VISIBLE_DEVICES"}
    return _divide(len(os.sched_getaffinity(0)), count_gpus(visible), memory_limit(), OBJECT_STORE_LOCAL)


def count_gpus(environment: Mapping[str, str], *, exclusive: bool = True) -> int:
    """GPUs that this process may see: CUDA_VISIBLE_DEVICES, else Slurm's count, else its own node's device files.

    Ray's own look needs a driver library on its path.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # CUDA ignores what follows the first invalid entry
        return len(list(takewhile(lambda device: device.strip() not in NO_DEVICE, visible.split(","))))
    allocated = environment.get("SLURM_GPUS_ON_NODE", "")
    if TYPED_COUNTS.fullmatch(allocated):
        return sum(int(part.rpartition(":")[2]) for part in allocated.split(","))
    return sum(map(_may_open, gpu_device_files())) if exclusive else 0


def gpu_device_files() -> list[Path]:
    """/dev/nvidia0, /dev/nvidia1 and so on, without nvidiactl and its like."""
    found = Path("/dev").glob("nvidia[0-9]*")
    return sorted(path for path in found if path.name.removeprefix("nvidia").isdigit())


def _may_open(device: Path) -> bool:
    """Slurm's ConstrainDevices leaves the file of a GPU that was not asked for, and forbids to open it."""
    try:
        os.close(os.open(device, os.O_RDWR))
    except PermissionError:
        return False
    except OSError:  # ours, and broken: for preflight to find
        return True
    return True


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the machine's, or the least of its control groups. `root` is for tests."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_cgroup_limits(root)])


def _divide(cpus: int, gpus: int, total: int, most: int) -> Resources:
    """Split `total` bytes between the object store, a reserve for Ray, and what tasks may ask for."""
    share = int(OBJECT_STORE_SHARE * min(total, shutil.disk_usage("/dev/shm").free))
    object_store = max(OBJECT_STORE_LEAST, min(most, share))
    reserve = min(RAY_RESERVE, total // 4)  # a quarter: a small node shall not end with nothing
    return Resources(cpus, gpus, max(total - object_store - reserve, total // 4), object_store)


def _allocated_memory(environment: Mapping[str, str], cpus: int, gpus: int) -> int | None:
    """Bytes that Slurm gave on this node, or None: no variable, or 0 (`--mem=0`), is no limit."""
    per_unit = {"SLURM_MEM_PER_NODE": 1, "SLURM_MEM_PER_CPU": cpus, "SLURM_MEM_PER_GPU": gpus}
    given = [_number(environment, name) * units * MIB for name, units in per_unit.items()]
    return next((limit for limit in given if limit), None)


def _number(environment: Mapping[str, str], name: str) -> int:
    """A whole number from the environment; 0 where it is missing or no number."""
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The memory limits, in bytes, of this process's control group and of all groups around it (v1 and v2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for hierarchy, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if hierarchy == "0" and not controllers:
            yield from _limits_up(root / "sys/fs/cgroup", group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_up(root / "sys/fs/cgroup/memory", group, "memory.limit_in_bytes")


def _limits_up(mount: Path, group: str, file: str) -> Iterator[int]:
    """The limits from `group` up to the mount point. A container sees its group as the root, under a foreign name."""
    here = mount / group.strip("/")
    for folder in (here, *here.parents):
        if not folder.is_relative_to(mount):
            return
        try:
            text = (folder / file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # else "max"
            yield int(text)
