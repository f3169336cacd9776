"""What measures a node or a link, against faults that are really there."""

import gc
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.files import REPOSITORY
from cluster.preflight.checks import check_gpus
from cluster.probes.clock import ahead_of_files, ahead_of_host
from cluster.probes.gpus import SLOWED, of_others, read_gpus, read_memory_use
from cluster.probes.limits import read_limits
from cluster.probes.sockets import PATH_MOST, RAY_ADDS, socket_path_bytes
from cluster.probes.stopwatch import batch_seconds
from cluster.probes.storage import canary, space
from tests.support.netns import missing

WHY_NOT = missing()
needs_root = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def python(code: str, *before: str) -> str:
    """What `code` prints in a process of its own, after the shell commands `before`."""
    script = " && ".join([*before, 'exec "$0" -c "$1"'])
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_limits_are_those_of_the_process_and_can_be_raised() -> None:
    code = "from cluster.probes.limits import *; print(read_limits()); print(raise_soft_limits())"
    before, after = python(code, "ulimit -Sn 1000", "ulimit -Hn 5000", "ulimit -Sv 9000000").splitlines()
    assert "open_files=1000," in before
    assert f"address_space={9000000 * 1024})" in before
    assert "open_files=5000," in after
    assert "address_space=None)" in after
    assert read_limits().open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def test_a_canary_returns_and_leaves_nothing(tmp_path: Path) -> None:
    result = canary(tmp_path)
    assert result.problem is None and result.write_seconds
    assert list(tmp_path.iterdir()) == []
    assert space(tmp_path) is not None
    assert "No such file" in str(canary(tmp_path / "none").problem)
    assert space(tmp_path / "none") is None


@needs_root
def test_a_full_file_system_is_told(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from cluster.probes.storage import *; p = Path('{tmp_path}')\nprint(space(p).total, canary(p).problem, list(p.iterdir()))"  # noqa: E501
    inside = f'mount -t tmpfs -o size=16k none {tmp_path} && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "sh", "-c", inside, sys.executable, code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "16384 No space left on device []"


def test_the_clock_of_a_local_disk_is_our_own(tmp_path: Path) -> None:
    offset = ahead_of_files(tmp_path)
    assert offset is not None and abs(offset.seconds) < 0.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ahead", [60.0, -60.0, 0.0])
def test_a_wrong_clock_shows_between_two_hosts(tmp_path: Path, ahead: float) -> None:
    file = tmp_path / "file"
    file.write_text("stamped by the server, which is right")
    offset = ahead_of_host(file, time.time() - ahead, tmp_path)
    assert offset is not None and offset.seconds == pytest.approx(ahead, abs=0.5)


def test_a_file_from_the_future_shows_even_where_hosts_stamp_their_own(tmp_path: Path) -> None:
    file, there = tmp_path / "file", time.time() + 60
    file.write_text("stamped by its host, whose clock is wrong")
    os.utime(file, (there, there))
    offset = ahead_of_host(file, there, tmp_path)
    assert offset is not None and offset.seconds == pytest.approx(-60, abs=0.5)
    assert ahead_of_host(tmp_path / "none", there, tmp_path) is None


@pytest.mark.parametrize("temp", [PATH_MOST - RAY_ADDS, PATH_MOST - RAY_ADDS + 1])
def test_the_longest_socket_path_is_foreseen(temp: int) -> None:
    folder = "/" + "x" * (temp - 1)
    assert socket_path_bytes(Path(folder)) == temp + RAY_ADDS
    # The kernel looks for the folder, which does not exist, only where the path is short enough.
    expected = "No such file" if temp + RAY_ADDS <= PATH_MOST else "path too long"
    with socket.socket(socket.AF_UNIX) as server, pytest.raises(OSError, match=expected):
        server.bind(f"{folder}/{'y' * (RAY_ADDS - 1)}")


def fake_driver(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_no_garbage_is_collected_while_runs_are_timed() -> None:
    collects: list[bool] = []
    batch_seconds(lambda: collects.append(gc.isenabled()), 3, cuda=False)
    assert collects == [False] * 3 and gc.isenabled()


def test_a_gpu_that_is_never_done_is_waited_for_no_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pending:
        def __init__(self, *, enable_timing: bool) -> None: ...

        def record(self) -> None: ...

        def query(self) -> bool:
            return False

    monkeypatch.setattr("torch.cuda.Event", Pending)
    with pytest.raises(RuntimeError, match=r"not done after 0\.2 s"):
        batch_seconds(lambda: None, 1, cuda=True, limit=0.2)
    assert gc.isenabled()


def test_gpus_as_the_driver_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = subprocess.Popen(["sleep", "60"])
    script = f"""case $1 in
*compute-apps*) echo "GPU-b, {other.pid}, 512"; echo "GPU-b, 99999999, [N/A]";;
*) echo "0, NVIDIA H200, GPU-a, 580.1, 143771, 0, 0, 0x0000000000000001"
   echo "1, NVIDIA H200, GPU-b, 580.1, 143771, [N/A], [N/A], 0x0000000000000048";;
esac"""
    fake_driver(tmp_path, script, monkeypatch)
    try:
        gpus = read_gpus()
    finally:
        other.kill()
        other.wait()
    assert gpus is not None and gpus.problem is None
    first, second = gpus.found
    assert (first.ecc_errors, first.slowed_by, first.memory_total) == (0, [], 143771 * 1024**2)
    assert (second.ecc_errors, second.memory_used) == (None, None)
    assert second.slowed_by == [SLOWED[0x08], SLOWED[0x40]]
    assert [(p.pid, p.user_id, p.memory) for p in second.processes] == [
        (other.pid, os.getuid(), 512 * 1024**2),
        (99999999, None, None),
    ]
    assert of_others(second) == []  # one is ours, of the other nobody knows
    assert [gpu.uuid for gpu in (read_gpus("1") or gpus).found] == ["GPU-b"]
    assert [gpu.uuid for gpu in (read_gpus("GPU-a") or gpus).found] == ["GPU-a"]


CELLS = "NVIDIA H100, GPU-b, 580.1, 81559, 0, 0, 0x0"


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (f"1, {CELLS}", None),
        ("1, NVIDIA H100, GPU-b, 580.1, [GPU requires reset], [GPU requires reset], 0, 0x0", "[GPU requires reset]"),
        ("1, NVIDIA H100, GPU-b, 580.1, 81559, 0, [Unknown Error], 0x0", "[Unknown Error]"),
        ("1, NVIDIA H100, GPU-b, 580.1, 81559, 0, 0, [GPU is lost]", "[GPU is lost]"),
        ("1, [Unknown Error], GPU-b, [Unknown Error], [N/A], [N/A], [N/A], [N/A]", "[Unknown Error]"),
        (", ".join(["[Unknown Error]"] * 8), "[Unknown Error]"),
        ("1, NVIDIA H100, GPU-b, 580.1, [Not Supported], [Insufficient Permissions], [N/A], [Not Found]", None),
        ("\u00b2, NVIDIA H100, GPU-b, 580.1, 81559, 0, 0, 0x0", None),
    ],
)
def test_a_row_that_reports_an_error_is_an_error_of_that_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, error: str | None
) -> None:
    first = CELLS.replace("GPU-b", "GPU-a")
    fake_driver(tmp_path, f"""case $1 in *compute-apps*) ;; *) echo "0, {first}"; echo "{row}";; esac""", monkeypatch)
    gpus = read_gpus()
    assert gpus is not None
    assert [(gpu.index, gpu.error) for gpu in gpus.found] == [(0, None), (1, error)]
    bad = [finding for finding in check_gpus(2, gpus, 2) if finding.severity == "error"]
    assert [f"GPU 1 ({gpus.found[1].uuid}) reports {error}"] * bool(error) == [finding.seen for finding in bad]


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("Unable to determine the device handle for GPU0000:3B:00.0: Unknown Error", "error"),
        ("Unable to determine the device handle for GPU 0000:B3:00.0: GPU is lost. Reboot the system", "error"),
        ("WARNING: infoROM is corrupted at gpu 0000:5E:00.0", "warning"),
    ],
)
def test_a_line_about_a_gpu_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, severity: str
) -> None:
    fake_driver(tmp_path, f"""case $1 in *compute-apps*) ;; *) echo "0, {CELLS}"; echo "{line}";; esac""", monkeypatch)
    gpus = read_gpus()
    assert gpus is not None and len(gpus.found) == 1
    assert [(f.severity, f.check, line in f.seen) for f in check_gpus(1, gpus, 1)[1:]] == [
        (severity, "gpu error", True)
    ]


MIG = """case $1 in
-L) echo "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-a)"
    echo "  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4-1)"
    echo "  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-a/2/0)"
    echo "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b)"
    echo "  MIG 1g.5gb     Device  0: (UUID: MIG-77-2)";;
*compute-apps*) ;;
*) echo "0, NVIDIA A100, GPU-a, 580.1, 40960, 0, 0, 0x0"; echo "1, NVIDIA A100, GPU-b, 580.1, 40960, 0, 3, 0x0";;
esac"""


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        ("MIG-c6d4-1", ["MIG-c6d4-1"]),
        ("MIG-c6d4-1,MIG-GPU-a/2/0", ["MIG-c6d4-1", "MIG-GPU-a/2/0"]),
        ("MIG-77", ["MIG-77-2"]),
        ("MIG-77-2,GPU-a", ["GPU-a", "MIG-77-2"]),
        ("0", ["GPU-a"]),
        ("MIG-of-another-job", []),
    ],
)
def test_the_parts_of_a_gpu_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str, uuids: list[str]
) -> None:
    fake_driver(tmp_path, MIG, monkeypatch)
    gpus = read_gpus(visible)
    assert gpus is not None
    assert [gpu.uuid for gpu in gpus.found] == uuids
    first = check_gpus(max(1, len(uuids)), gpus, 2)[0]
    assert first.severity == ("ok" if uuids else "error")
    assert "MIG" not in visible or not uuids or "MIG" in first.seen


def test_a_driver_that_hangs_costs_no_more_than_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path, "exec sleep 60", monkeypatch)
    started = time.monotonic()
    gpus = read_gpus(timeout=0.3)
    assert time.monotonic() - started < 1.5
    assert gpus is not None and gpus.problem == "nvidia-smi did not answer within 0.3 s"
    assert read_memory_use(timeout=0.1) is None


def test_no_driver_is_no_error_and_a_broken_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path, "echo NVIDIA-SMI has failed; exit 9", monkeypatch)
    assert read_gpus() is None
    fake_driver(tmp_path, "echo Unable to determine the device handle; exit 15", monkeypatch)
    gpus = read_gpus()
    assert gpus is not None and gpus.problem == "nvidia-smi failed with code 15: Unable to determine the device handle"
    assert read_memory_use(timeout=5) == {}
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert read_gpus() is None and read_memory_use(timeout=5) == {}
