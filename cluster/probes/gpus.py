"""What the NVIDIA driver says of this node's GPUs, asked through nvidia-smi: a hung driver hangs only that process."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

TIMEOUT = 30.0  # seconds for both questions together; without persistence mode each of 8 GPUs takes some to wake
FIELDS = (
    "index",
    "name",
    "uuid",
    "driver_version",
    "memory.total",
    "memory.used",
    "ecc.errors.uncorrected.volatile.total",
    "clocks_throttle_reasons.active",  # newer drivers print it as clocks_event_reasons.active and still take this name
)
USE_FIELDS = ("index", "name", "utilization.memory")
PROCESS_FIELDS = ("gpu_uuid", "pid", "used_memory")
NO_DRIVER = (9, 12)  # nvidia-smi's exit codes for "driver not loaded" and "its library not found"
# Bits of the clocks' event reasons (nvml.h) that mean a GPU in trouble. The other bits are normal: idle, application
# clocks, power cap.
SLOWED = {0x08: "hardware slowdown", 0x20: "too hot (software)", 0x40: "too hot (hardware)", 0x80: "power brake"}
MIB = 1024**2
# Brackets hold the reason for a missing figure. These mean only that the driver does not report it.
UNTOLD = ("[N/A]", "[Not Supported]", "[Not Found]", "[Insufficient Permissions]", "[Requested functionality has been")
# Lines of `nvidia-smi -L`: a GPU, and the parts that it is cut into (MIG) below it.
LISTED = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[\w-]+)\)", re.ASCII)
PART = re.compile(r"\s*MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[\w/-]+)\)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds memory of a GPU. `user_id` is None where it cannot be seen from here."""

    pid: int
    user_id: int | None
    memory: int | None  # bytes


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; None is what the driver does not report. Memory in bytes, ECC errors since the driver was loaded."""

    index: int
    name: str
    uuid: str
    driver: str | None
    memory_total: int | None
    memory_used: int | None
    ecc_errors: int | None
    slowed_by: list[str] | None
    processes: list[Process] = field(default_factory=list)
    error: str | None = None  # the driver's words in the place of a figure: [GPU requires reset], [Unknown Error]


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs that this process may see, or why the driver does not answer."""

    found: list[Gpu]
    problem: str | None = None
    complaints: list[str] = field(default_factory=list)  # lines of nvidia-smi about GPUs that have no row


def read_gpus(visible: str | None = None, timeout: float = TIMEOUT) -> Gpus | None:
    """The GPUs in `visible` (as in CUDA_VISIBLE_DEVICES; None: all), within `timeout` seconds. None: no driver.

    A part of a GPU (MIG) that `visible` names counts as one, with what is known of the whole; not its memory.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    deadline = time.monotonic() + timeout
    answers = [_ask(program, "--query-gpu", FIELDS), _ask(program, "--query-compute-apps", PROCESS_FIELDS)]
    (code, rows), (_, users) = [_answer(process, deadline) for process in answers]
    if code in NO_DRIVER:
        return None
    if code is None:
        return Gpus([], f"nvidia-smi did not answer within {timeout:g} s")
    if code:
        return Gpus([], f"nvidia-smi failed with code {code}: {' '.join(rows[-1]) if rows else 'no output'}")
    processes = [(row[0], _process(row)) for row in users if len(row) == len(PROCESS_FIELDS) and _is_number(row[1])]
    whole = [_gpu(number, row, processes) for number, row in enumerate(r for r in rows if len(r) == len(FIELDS))]
    complaints = [", ".join(row) for row in rows if len(row) != len(FIELDS) and any(row)]
    found = [gpu for gpu in whole if _is_visible(gpu, visible)]
    if visible and "MIG-" in visible:
        _, listed = _answer(_run([program, "-L"]), deadline)
        found += [part for part in _parts(whole, [",".join(row) for row in listed]) if _is_visible(part, visible)]
    return Gpus(found, complaints=complaints)


def read_memory_use(timeout: float) -> dict[str, tuple[str, float | None]] | None:
    """Name and per cent of the time in which memory was read or written, by GPU number; empty without a driver.

    None where the driver does not answer within `timeout` seconds: better not to ask again.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    code, rows = _answer(_ask(program, "--query-gpu", USE_FIELDS), time.monotonic() + timeout)
    if code is None:
        return None
    known = [row for row in rows if len(row) == len(USE_FIELDS) and _is_number(row[0])] if code == 0 else []
    return {index: (name, float(use) if _is_number(use) else None) for index, name, use in known}


def of_others(gpu: Gpu) -> list[Process]:
    """The processes on `gpu` that are some other user's."""
    return [process for process in gpu.processes if process.user_id not in (None, os.getuid())]


def _ask(program: str, question: str, fields: Sequence[str]) -> "subprocess.Popen[str]":
    return _run([program, f"{question}={','.join(fields)}", "--format=csv,noheader,nounits"])


def _run(command: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def _answer(process: "subprocess.Popen[str]", deadline: float) -> tuple[int | None, list[list[str]]]:
    """The exit code and the rows, or None after the deadline. One that hangs in the driver cannot even be reaped."""
    try:
        output, _ = process.communicate(timeout=max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        process.kill()
        return None, []
    return process.returncode, [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]


def _gpu(number: int, row: Sequence[str], processes: Sequence[tuple[str, Process]]) -> Gpu:
    """A row as a GPU; `number` is the row's, for a GPU that does not even report its own."""
    index, name, uuid, driver, total, used, ecc, slowed = row
    errors = [cell for cell in row if cell.startswith("[") and not cell.startswith(UNTOLD)]
    return Gpu(
        index=int(index) if _is_number(index) else number,
        name=name,
        uuid=uuid,
        driver=driver if driver[:1].isdigit() else None,
        memory_total=_bytes(total),
        memory_used=_bytes(used),
        ecc_errors=int(ecc) if _is_number(ecc) else None,
        slowed_by=_reasons(slowed),
        processes=[process for owner, process in processes if owner == uuid],
        error=errors[0] if errors else None,
    )


def _parts(whole: Sequence[Gpu], lines: Sequence[str]) -> Iterator[Gpu]:
    """The MIG devices in what `nvidia-smi -L` printed, each as a GPU, with the number of the one it is of."""
    known = {gpu.uuid: gpu for gpu in whole}
    owner: Gpu | None = None
    for line in lines:
        if listed := LISTED.match(line):
            owner = known.get(listed[2])
        elif owner and (part := PART.match(line)):
            name = f"{owner.name} MIG {part[1]}"
            yield replace(owner, name=name, uuid=part[2], memory_total=None, memory_used=None, processes=[])


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _process(row: Sequence[str]) -> Process:
    pid = int(row[1])
    try:
        user_id = Path(f"/proc/{pid}").stat().st_uid
    except OSError:  # gone, hidden, or of another namespace
        user_id = None
    return Process(pid, user_id, _bytes(row[2]))


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * MIB if _is_number(mebibytes) else None


def _reasons(mask: str) -> list[str] | None:
    try:
        bits = int(mask, 16)
    except ValueError:  # [N/A]
        return None
    return [reason for bit, reason in SLOWED.items() if bits & bit]


def _is_visible(gpu: Gpu, visible: str | None) -> bool:
    """Whether CUDA would show it; an entry is an index or the beginning of a UUID. An index means a whole GPU."""
    wanted = [] if visible is None else [entry.strip() for entry in visible.split(",")]
    number = "" if gpu.uuid.startswith("MIG-") else str(gpu.index)
    return visible is None or any(entry and (entry == number or gpu.uuid.startswith(entry)) for entry in wanted)
