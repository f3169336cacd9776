"""What Ray is told of a node: Slurm's variables, real control groups and the machine, whichever gives least."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.machine.resources import (
    OBJECT_STORE_LEAST,
    OBJECT_STORE_LOCAL,
    OBJECT_STORE_SHARE,
    RAY_RESERVE,
    Resources,
    count_gpus,
    from_allocation,
    gpu_device_files,
    local_resources,
    memory_limit,
)
from cluster.schedulers.slurm import Slurm

GIB = 1024**3
V1 = Path("/sys/fs/cgroup/memory")
JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURMD_NODENAME": "n1"}


def given_by_slurm(variables: dict[str, str], *, exclusive: bool = True) -> Resources:
    """A node's share, as the node's process finds it in a Slurm job."""
    found = Slurm().allocation(JOB | variables)
    return from_allocation(variables, cpus=found.cpus, gpus=found.gpus, memory=found.memory, exclusive=exclusive)


@pytest.mark.parametrize(
    ("visible", "count"),
    [("0,1,2", 3), ("", 0), ("-1", 0), ("NoDevFiles", 0), ("0,-1,1", 1), ("GPU-a,GPU-b", 2), ("MIG-1", 1)],
)
def test_visible_gpus_win_over_slurms_count(visible: str, count: int) -> None:
    assert given_by_slurm({"CUDA_VISIBLE_DEVICES": visible, "SLURM_GPUS_ON_NODE": "8"}).gpus == count


def test_gpus_come_from_slurm_and_then_from_the_device_files() -> None:
    assert given_by_slurm({"SLURM_GPUS_ON_NODE": "4"}).gpus == 4
    assert given_by_slurm({"SLURM_GPUS_ON_NODE": "h100:8"}).gpus == 8
    assert given_by_slurm({"SLURM_GPUS_ON_NODE": "a100:4,h100-sxm:2"}).gpus == 6
    assert given_by_slurm({"SLURM_GPUS_ON_NODE": "(null)"}).gpus == len(gpu_device_files())
    assert count_gpus({}) == len(gpu_device_files())


@pytest.mark.parametrize(("option", "count"), [("dev", 1), ("nodev", 0)])
def test_a_device_file_that_may_not_be_opened_is_no_gpu_of_ours(option: str, count: int) -> None:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting another /dev needs root")
    code = "from cluster.machine.resources import count_gpus; print(count_gpus({}))"
    mount = f"mount -t tmpfs -o {option} none /dev && mknod /dev/nvidia0 c 1 3 && exec {sys.executable} -c '{code}'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == count


def test_cpus_come_from_slurm_and_then_from_the_affinity() -> None:
    assert given_by_slurm({"SLURM_CPUS_ON_NODE": "3"}).cpus == 3
    code = "from cluster.machine.resources import from_allocation; print(from_allocation({}).cpus)"
    first = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(
        ["taskset", "-c", first, sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"SLURM_MEM_PER_NODE": "1024"},
        {"SLURM_MEM_PER_CPU": "256", "SLURM_CPUS_ON_NODE": "4"},
        {"SLURM_MEM_PER_NODE": "0", "SLURM_MEM_PER_GPU": "512", "SLURM_GPUS_ON_NODE": "2"},
    ],
)
def test_memory_is_the_allocations(given: dict[str, str]) -> None:
    found = given_by_slurm(given)
    assert found.object_store <= OBJECT_STORE_SHARE * GIB
    assert found.memory == GIB - found.object_store - GIB // 4  # of a small node, Ray's reserve is a quarter


@pytest.mark.parametrize("given", [{}, {"SLURM_MEM_PER_NODE": "0"}, {"SLURM_MEM_PER_NODE": str(2**40)}])
def test_without_a_limit_the_machine_is_the_limit(given: dict[str, str]) -> None:
    found = given_by_slurm(given)
    total = memory_limit()
    assert found.object_store >= OBJECT_STORE_LEAST
    assert found.memory == total - found.object_store - min(RAY_RESERVE, total // 4)


def test_a_local_cluster_takes_less_and_does_not_listen_to_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "99")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "99")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = local_resources()
    assert (found.cpus, found.gpus) == (len(os.sched_getaffinity(0)), 0)
    assert found.object_store <= OBJECT_STORE_LOCAL


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_least_of_all_groups_around_the_process_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/slurm/job_7/step_0\n")
    write(tmp_path / "sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n")
    write(tmp_path / "sys/fs/cgroup/slurm/job_7/memory.max", f"{3 * GIB // 10}\n")
    write(tmp_path / "sys/fs/cgroup/slurm/memory.max", f"{4 * GIB // 10}\n")
    assert memory_limit(tmp_path) == 3 * GIB // 10


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/abc\n0::/../../other\n")
    write(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{GIB // 5}\n")
    assert memory_limit(tmp_path) == GIB // 5


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A real control group with half a GiB (version 1; a version 2 tree of a systemd machine is not ours to change)."""
    folder = V1 / f"kosen-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(GIB // 2))
    except OSError as error:
        pytest.skip(f"cannot make a control group: {error}")
    yield folder
    folder.rmdir()


def test_a_real_control_group_is_the_limit(control_group: Path) -> None:
    code = "from cluster.machine.resources import memory_limit; print(memory_limit())"
    enter = f"echo $$ > {control_group}/cgroup.procs; exec {sys.executable} -c '{code}'"
    done = subprocess.run(["sh", "-c", enter], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) == GIB // 2


def test_the_object_store_fits_a_small_shared_memory() -> None:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting a small /dev/shm needs root")
    code = "from cluster.machine.resources import from_allocation; print(from_allocation({}).object_store)"
    mount = f"mount -t tmpfs -o size=1g none /dev/shm && exec {sys.executable} -c '{code}'"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount], capture_output=True, text=True, timeout=30, check=True
    )
    assert int(done.stdout) == int(OBJECT_STORE_SHARE * GIB)
