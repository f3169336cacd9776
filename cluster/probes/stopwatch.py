"""The time of runs back to back. Launches on a GPU are not waited for, so that one shows only where a run is shorter;
`captured` takes it away there too."""

import gc
import time
from collections.abc import Callable

POLL = 1e-4  # seconds between two polls of a GPU


def batch_seconds(run: Callable[[], object], count: int, *, cuda: bool, limit: float = float("inf")) -> float:
    """Seconds of `count` runs: between two events on the GPU's current stream, or by the clock of this process.

    On a GPU one more run goes before the first event, so that no rank waits for this process's first launch within the
    time, nor, in a collective, for the first launch of the slowest rank. Python collects no garbage meanwhile, as in
    timeit: with torch loaded that takes milliseconds. Raises RuntimeError if a GPU is not done in `limit` seconds.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return _cuda_seconds(run, count, limit) if cuda else _seconds(run, count)
    finally:
        if collects:
            gc.enable()


def _seconds(run: Callable[[], object], count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        run()
    return time.perf_counter() - started


def _cuda_seconds(run: Callable[[], object], count: int, limit: float) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    run()
    start.record()
    for _ in range(count):
        run()
    end.record()
    deadline = time.monotonic() + limit
    while not end.query():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the GPU was not done after {limit:g} s")
        time.sleep(POLL)
    return float(start.elapsed_time(end)) / 1e3


def captured(run: Callable[[], object], count: int) -> Callable[[], object]:
    """`count` runs back to back as one CUDA graph, which Python launches once. All ranks of a collective do it."""
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # torch's own threads query events meanwhile
        for _ in range(count):
            run()
    return graph.replay
