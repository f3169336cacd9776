"""What a node may use: CPUs, GPUs and memory of the allocation, where Ray by itself would take all of the machine."""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

OBJECT_STORE_SHARE = 0.3  # share, Ray's own default; the rest of /dev/shm is for NCCL, PyTorch and vLLM
OBJECT_STORE_LEAST = 100 * 1024**2  # bytes; Ray refuses less than 75 MiB, and uses /tmp where /dev/shm is small
# Bytes. Model weights never pass through the store. The largest thing that does is a batch of PPO: 1024 prompts x 8
# answers x 16k tokens x 5 tensors of 8 bytes are 5 GiB, so a few of them fit; beyond that Ray spills to disk.
OBJECT_STORE_MOST = 32 * 1024**3
OBJECT_STORE_LOCAL = 2 * 1024**3  # bytes; smaller on a workstation that people also use
RAY_RESERVE = (
    2 * 1024**3
)  # bytes; GCS, raylet, dashboard and agents of an idle head take under 1 GiB and grow with tasks
NO_DEVICE = ("", "-1", "NoDevFiles", "none", "void")  # words of schedulers and of CUDA for "none"


@dataclass(frozen=True, slots=True)
class Resources:
    """What Ray gets to know of one node. `memory` and `object_store` are bytes and do not overlap."""

    cpus: int
    gpus: int
    memory: int
    object_store: int


def from_allocation(
    environment: Mapping[str, str],
    *,
    cpus: int | None = None,
    gpus: int | None = None,
    memory: int | None = None,
    exclusive: bool = True,
) -> Resources:
    """The share of this node that the scheduler's figures, CUDA_VISIBLE_DEVICES in `environment`, the control group
    and the machine allow. `memory` is bytes; None is what the scheduler does not say.

    Of GPUs that it says nothing of, those of an `exclusive` node are ours; else they may be a neighbour's.
    """
    cpus = cpus or len(os.sched_getaffinity(0))
    limit = memory_limit()
    found = count_gpus(environment, gpus, exclusive=exclusive)
    return _divide(cpus, found, min(memory or limit, limit), OBJECT_STORE_MOST)


def local_resources() -> Resources:
    """The share of this machine that a local cluster takes; a scheduler's figures do not count."""
    return _divide(len(os.sched_getaffinity(0)), count_gpus(os.environ), memory_limit(), OBJECT_STORE_LOCAL)


def count_gpus(environment: Mapping[str, str], allocated: int | None = None, *, exclusive: bool = True) -> int:
    """GPUs that this process may see: CUDA_VISIBLE_DEVICES, else the scheduler's count, else those device files that
    this process may open, on a node of its own.

    Ray's own detection needs a driver library on its path.
    """
    seen = visible_gpus(environment, allocated)
    if seen is not None:
        return seen
    return sum(map(_may_open, gpu_device_files())) if exclusive else 0


def visible_gpus(environment: Mapping[str, str], allocated: int | None = None) -> int | None:
    """GPUs in CUDA_VISIBLE_DEVICES, else `allocated`."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return allocated
    # CUDA ignores what follows the first invalid entry
    return len(list(takewhile(lambda device: device.strip() not in NO_DEVICE, visible.split(","))))


def gpu_device_files() -> list[Path]:
    """/dev/nvidia0, /dev/nvidia1 and so on, without nvidiactl and its like."""
    found = Path("/dev").glob("nvidia[0-9]*")
    return sorted(path for path in found if path.name.removeprefix("nvidia").isdigit())


def _may_open(device: Path) -> bool:
    """A scheduler may leave the file of a GPU that was not asked for, and forbid to open it."""
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
