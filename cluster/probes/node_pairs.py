"""An all-reduce between every two nodes, one rank each: a slow node is what the slow pairs have in common."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cluster.probes.pairwise import rounds
from cluster.probes.sweep import Timing, sweep

SMALL = 8  # bytes of the message whose time is the latency


@dataclass(frozen=True, slots=True)
class PairTiming:
    """`small` is of 8 bytes, `large` of the size that was asked for."""

    nodes: tuple[str, str]
    small: Timing
    large: Timing


def sweep_pairs(node: str, size: int, device: Any, timeout: float) -> Iterator[list[PairTiming]]:
    """Rounds of disjoint pairs at once, n - 1 rounds for n nodes or n of an odd number; yields each round's.

    All ranks of torch's process group run it together, each with its own `node`; a node's first rank takes part in its
    pairs. `timeout`: seconds for each collective that torch watches. Raises RuntimeError as `sweep` does.
    """
    import torch.distributed as dist

    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, node)
    first = {name: names.index(name) for name in names}
    for pairs in rounds(list(first), most=len(first)):
        limit = timedelta(seconds=timeout)
        groups = [dist.new_group([first[name] for name in pair], timeout=limit) for pair in pairs]
        own = [(pair, group) for pair, group in zip(pairs, groups, strict=True) if _is_in(group)]
        met: list[list[PairTiming]] = [[] for _ in names]
        dist.all_gather_object(met, [_meet(pair, size, device, group) for pair, group in own])
        for _, group in own:
            dist.destroy_process_group(group)
        yield list({timing.nodes: timing for timings in met for timing in timings}.values())  # both saw it


def _is_in(group: Any) -> bool:
    import torch.distributed as dist

    return bool(dist.get_rank(group) >= 0)


def _meet(pair: tuple[str, str], size: int, device: Any, group: Any) -> PairTiming:
    small, large = sweep("all_reduce", [SMALL, size], device, group)
    return PairTiming(pair, small, large)
