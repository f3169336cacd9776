"""nccl-tests' own programs on the GPUs of one node, where they are installed: the figures that ours stand beside."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.probes.sweep import OPERATIONS, Operation, Timing
from jobs.benchmarking.results import Transfer

PROGRAMS: dict[Operation, str] = {
    "all_reduce": "all_reduce_perf",
    "all_gather": "all_gather_perf",
    "reduce_scatter": "reduce_scatter_perf",
    "all_to_all": "alltoall_perf",
    "broadcast": "broadcast_perf",
}
PROGRAM_SECONDS = 300.0  # for one program; 8 B to 8 GB take about 20
COLUMNS = 13  # size, count, type, redop, root; then time, algbw, busbw and wrong, out of place and in place


@dataclass
class Peer:
    """What was measured, and sentences about what was not."""

    transfers: list[Transfer] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def run(smallest: int, largest: int, gpus: int, environment: Mapping[str, str]) -> Peer:
    """All programs that are on this node's PATH, one after the other on `gpus` GPUs. Sizes in bytes."""
    peer = Peer()
    for operation in OPERATIONS:
        if program := shutil.which(PROGRAMS[operation]):
            _run_one(peer, operation, [program, f"-b{smallest}", f"-e{largest}", "-f2", f"-g{gpus}"], environment)
        else:
            peer.missing.append(f"nccl-tests: {PROGRAMS[operation]} is not on the node's PATH")
    return peer


def parse(operation: Operation, ranks: int, output: str) -> list[Transfer]:
    """The rows of a program's table: its in-place half; of all_to_all, which is not checked in place, the other one."""
    rows = [line.split() for line in output.splitlines() if line.split()[:1] and line.split()[0].isdigit()]
    half = slice(5, 9) if operation == "all_to_all" else slice(9, 13)
    timed = [(int(row[0]), row[half]) for row in rows if len(row) == COLUMNS and int(row[0])]
    return [
        transfer(Timing(operation, size, ranks, float(time) * 1e-6, correct=wrong == "0"))
        for size, (time, _, _, wrong) in timed
        if float(time)
    ]


def transfer(timing: Timing) -> Transfer:
    return Transfer(
        operation=timing.operation,
        size=timing.size,
        ranks=timing.ranks,
        seconds=timing.seconds,
        algorithm_bandwidth=timing.algorithm_bandwidth,
        bus_bandwidth=timing.bus_bandwidth,
        correct=timing.correct,
    )


def _run_one(peer: Peer, operation: Operation, command: list[str], environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PROGRAM_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        peer.missing.append(f"nccl-tests: {PROGRAMS[operation]} did not end within {PROGRAM_SECONDS:.0f} s")
        return
    ranks = int(command[-1].removeprefix("-g"))
    transfers = parse(operation, ranks, done.stdout)
    peer.transfers += transfers
    if done.returncode or not transfers:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        peer.missing.append(f"nccl-tests: {PROGRAMS[operation]} ended with code {done.returncode}: {' '.join(words)}")
