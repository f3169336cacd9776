"""Three ranks over Gloo as processes of this machine; prints what rank 0 saw, as JSON, in three parts.

python -m tests.support.sweep_ranks FOLDER runs every operation as it is, then with results of rank 1 that are
wrong in one element, then with operations that send nothing; and the pairs of three nodes, of which b is faulty.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from cluster.probes import sweep
from cluster.probes.node_pairs import sweep_pairs
from cluster.probes.sweep import OPERATIONS, PERIOD, fitting, message_sizes

NODES = "abc"
CPU = torch.device("cpu")
LARGEST = 2**14  # bytes; several pieces, as set below
TIMEOUT = 60.0  # seconds
NAMES = {
    "all_reduce": "all_reduce",
    "broadcast": "broadcast",
    "all_gather": "all_gather_single",
    "reduce_scatter": "reduce_scatter_single",
    "all_to_all": "all_to_all_single",
}


def main(folder: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=rank_main, args=(folder, rank)) for rank in range(len(NODES))]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(TIMEOUT)
        rank.kill()
    sys.exit(max(abs(rank.exitcode or 0) for rank in ranks))


def rank_main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), len(NODES))
    limit = timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=len(NODES), timeout=limit)
    sweep.PIECE = 4 * PERIOD
    found = {
        "fitting": fitting("all_to_all", [8, 2**60], CPU),
        "plain": rows(lambda call: call),
        "altered": rows(alter if rank == 1 else lambda call: call),
        "silent": rows(lambda call: lambda *tensors, **options: None),
    }
    with fault("all_reduce", alter if rank == 1 else lambda call: call):
        found["pairs"] = [asdict(pair) for met in sweep_pairs(NODES[rank], LARGEST, CPU, TIMEOUT) for pair in met]
    dist.destroy_process_group()
    if rank == 0:
        print(json.dumps(found), flush=True)


def rows(change: Callable[[Any], Any]) -> list[dict[str, Any]]:
    measured = []
    for operation in OPERATIONS:
        with fault(NAMES[operation], change):
            sizes = message_sizes(operation, 8, LARGEST, len(NODES))
            measured += [
                {**asdict(timing), "bus_bandwidth": timing.bus_bandwidth}
                for timing in sweep.sweep(operation, sizes[::3], CPU)
            ]
    return measured


@contextmanager
def fault(name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """torch's own function `name` changed for messages; what the ranks tell each other is one double, and goes well."""
    original = getattr(dist, name)
    changed = change(original)

    def call(*tensors: Any, **options: Any) -> Any:
        return (original if tensors[0].dtype == torch.float64 else changed)(*tensors, **options)

    with patch.object(dist, name, call):
        yield


def alter(call: Any) -> Any:
    def altered(*tensors: Any, **options: Any) -> None:
        call(*tensors, **options)
        tensors[0].view(-1)[-1] += 1

    return altered


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    main(Path(sys.argv[1]))
