"""Collectives over message sizes, timed and checked the way nccl-tests do it.

Each function is one rank's part inside a process group of torch, and imports torch only when it runs. Messages are
float32. Sizes and bandwidths are nccl-tests' (doc/PERFORMANCE.md there): the size S of an all_gather, a reduce_scatter
or an all_to_all is that of all ranks' shards together, its algbw is S / seconds, its busbw algbw * `bus_factor`. As in
nccl-tests' in-place variants a rank's own shard lies inside the whole buffer; only all_to_all has two buffers.

Messages so short that Python could not launch them as fast as GPUs send them are replayed from a CUDA graph, as by
nccl-tests' option -G: a figure is that of the links, and not of this process. Set NCCL_GRAPH_MIXING_SUPPORT=0 for it:
NCCL's way to keep apart graphs that overlap adds 5 to 10 µs to each operation, and here nothing overlaps.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import psutil

from cluster.probes.stopwatch import batch_seconds, captured

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
WHOLE = ("all_reduce", "broadcast")  # the others work on shards
ELEMENT = 4  # bytes of a float32
SHARD_UNIT = 16  # bytes; nccl-tests round a rank's shard down to it
WARM_UP = 2
SECONDS_A_SIZE = 0.3  # the repetitions of a size stop after about this time
REPETITIONS_LEAST = 5
REPETITIONS_MOST = 20
SHORT = 1e-3  # seconds; Python launches in some 50 µs, so that of longer ones the next is always there in time
SHORT_BATCHES = 5  # batches, whose median counts: one rank that halts for some ms holds up all
SHORT_LIMIT = 120.0  # seconds; torch watches no operation of a graph, so that it does not report a failed peer
PERIOD = 251  # of the pattern that is sent: whole numbers, so that sums in float32 are exact
PIECE = PERIOD * 2**14  # elements that are filled and compared at once: 16 MB beside a message of 8 GB
WEIGHTS = 61  # the pattern is sent times 1 to 61: sums over a thousand ranks stay below 2**24, where float32 is exact
CUDA_RESERVE = 2 * 2**30  # bytes for NCCL's own buffers and the pattern


@dataclass(frozen=True, slots=True)
class Timing:
    """One operation at one size: `size` in bytes, `seconds` of one operation, the mean over `ranks` ranks."""

    operation: Operation
    size: int
    ranks: int
    seconds: float
    correct: bool

    @property
    def algorithm_bandwidth(self) -> float:
        """Bytes/s."""
        return self.size / self.seconds

    @property
    def bus_bandwidth(self) -> float | None:
        """Bytes/s; None for a single rank, which sends nothing."""
        return self.algorithm_bandwidth * bus_factor(self.operation, self.ranks) if self.ranks > 1 else None


def bus_factor(operation: Operation, ranks: int) -> float:
    """What makes an algbw the busbw that each rank's link carries, however many there are (nccl-tests' summary)."""
    share = (ranks - 1) / ranks
    return 2 * share if operation == "all_reduce" else 1.0 if operation == "broadcast" else share


def message_sizes(operation: Operation, smallest: int, largest: int, ranks: int) -> list[int]:
    """Bytes, doubling from `smallest` to `largest` and rounded down as nccl-tests do it; without those of nothing."""
    unit = ELEMENT if operation in WHOLE else SHARD_UNIT * ranks
    doubled = (smallest * 2**power for power in range((largest // smallest).bit_length()))
    return [size // unit * unit for size in doubled if size >= unit]


def fitting(operation: Operation, sizes: Sequence[int], device: Any) -> list[int]:
    """Those of `sizes` that fit in the free memory of every rank. All ranks call it together."""
    room = over_ranks(_free_memory(device), "MIN", device) / _buffers(operation)
    return [size for size in sizes if size <= room]


def sweep(operation: Operation, sizes: Sequence[int], device: Any, group: Any = None) -> Iterator[Timing]:
    """Measure `operation` at each of `sizes`, as `message_sizes` gives them. All ranks of `group` run it together.

    The operations of a size run back to back. Raises RuntimeError, as torch does, when a peer fails; in short ones it
    takes SHORT_LIMIT seconds.
    """
    import torch

    # One allocation for all sizes: blocks of every size would stay in torch's cache. Sums of zeros stay finite.
    buffers = [torch.zeros(max(sizes, default=0) // ELEMENT, device=device) for _ in range(_buffers(operation))]
    for size in sizes:
        yield _measure(operation, [buffer[: size // ELEMENT] for buffer in buffers], group)
    del buffers
    if device.type == "cuda":
        torch.cuda.empty_cache()  # so that `fitting` sees it as free


def over_ranks(value: float, how: Literal["MAX", "MIN", "SUM"], device: Any, group: Any = None) -> float:
    """The largest, the least or the sum of all ranks' values; waits for all of them."""
    import torch
    import torch.distributed as dist

    tensor = torch.tensor([value], dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=getattr(dist.ReduceOp, how), group=group)
    return float(tensor.item())


def repetitions(first: float, least: int = 1) -> int:
    """How often a size is sent that took the slowest rank `first` seconds: by all alike, or some would wait forever."""
    return max(least, min(REPETITIONS_MOST, int(SECONDS_A_SIZE / first)))


@dataclass(frozen=True, slots=True)
class _Call:
    """An operation ready to run; what is sent and what must be there afterwards: tensors and the pattern's weights."""

    run: Callable[[], object]
    sent: list[tuple[Any, int]]
    expected: list[tuple[Any, int]]


def _measure(operation: Operation, buffers: list[Any], group: Any) -> Timing:
    import torch.distributed as dist

    device, ranks = buffers[0].device, dist.get_world_size(group)
    call = _prepare(operation, buffers, group)
    seconds_of = partial(batch_seconds, call.run, cuda=device.type == "cuda")
    tries = [seconds_of(WARM_UP) / WARM_UP, seconds_of(1)]  # the very first one opens connections
    first = over_ranks(min(tries), "MAX", device, group)  # all ranks continue alike
    count = repetitions(first, REPETITIONS_LEAST)
    short = device.type == "cuda" and first < SHORT
    own = _seconds_of_short(call.run, count) if short else seconds_of(count)
    seconds = over_ranks(own / count, "SUM", device, group) / ranks
    correct = over_ranks(_is_right(call), "MIN", device, group) == 1
    for buffer in buffers:
        buffer.zero_()
    return Timing(operation, buffers[0].numel() * ELEMENT, ranks, seconds, correct)


def _seconds_of_short(run: Callable[[], object], count: int) -> float:
    """Seconds of `count` runs on a GPU, without their launches: the median of some batches."""
    graph = captured(run, count)
    return statistics.median(batch_seconds(graph, 1, cuda=True, limit=SHORT_LIMIT) for _ in range(SHORT_BATCHES))


def _buffers(operation: Operation) -> int:
    return 2 if operation == "all_to_all" else 1


def _prepare(operation: Operation, buffers: list[Any], group: Any) -> _Call:
    import torch.distributed as dist

    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    everyone, whole = range(ranks), buffers[0]
    if operation == "all_reduce":
        total = sum(_weight(source) for source in everyone)
        return _Call(partial(dist.all_reduce, whole, group=group), [(whole, _weight(rank))], [(whole, total)])
    if operation == "broadcast":
        run = partial(dist.broadcast, whole, group=group, group_src=0)
        return _Call(run, [(whole, _weight(rank))], [(whole, _weight(0))])
    shards = list(whole.view(ranks, -1))
    if operation == "all_gather":
        gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)  # its name since torch 2.13
        gathered = [(shard, _weight(source)) for source, shard in enumerate(shards)]
        return _Call(partial(gather, whole, shards[rank], group=group), [gathered[rank]], gathered)
    sent = [(shard, _weight(rank, target)) for target, shard in enumerate(shards)]
    if operation == "reduce_scatter":
        scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)  # its name since torch 2.13
        total = sum(_weight(source, rank) for source in everyone)
        return _Call(partial(scatter, shards[rank], whole, group=group), sent, [(shards[rank], total)])
    received = [(shard, _weight(source, rank)) for source, shard in enumerate(buffers[1].view(ranks, -1))]
    return _Call(partial(dist.all_to_all_single, buffers[1], whole, group=group), sent, received)


def _weight(source: int, target: int = 0) -> int:
    """Distinguishes the shards of two ranks, and those for two ranks."""
    return (7 * source + target) % WEIGHTS + 1


def _is_right(call: _Call) -> bool:
    """Whether the pattern arrives where it should. Needs 32 MB beside the message, however large that is."""
    import torch

    shard = call.sent[0][0]
    pattern = torch.arange(min(PIECE, shard.numel()), device=shard.device, dtype=torch.float32) % PERIOD
    for tensor, weight in call.sent:
        for piece in tensor.split(PIECE):
            torch.mul(pattern[: piece.numel()], weight, out=piece)
    call.run()
    return all(
        torch.equal(piece, pattern[: piece.numel()] * weight)
        for tensor, weight in call.expected
        for piece in tensor.split(PIECE)
    )


def _free_memory(device: Any) -> float:
    """Bytes that this rank may take; the ranks of a node share its memory, of which half is left to the others."""
    import torch

    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0]) - CUDA_RESERVE
    return psutil.virtual_memory().available / 2 / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
