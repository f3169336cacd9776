"""GPU and node figures of all nodes during a job, as CSV, from the Prometheus exporter that Ray runs on each node."""

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster.probes.exporter import MIB, Figures, gpu_memory, scaled, scrape
from cluster.probes.table import Cell, Tables, sampling

PERIOD = 5.0  # seconds between samples; Ray renews its figures as often
THREADS = 16  # nodes that are asked at the same time

NODES, GPUS = "node_metrics.csv", "gpu_metrics.csv"
NODE_COLUMNS = ("time", "node", "cpu_percent", "memory_used_mib", "memory_total_mib")
GPU_COLUMNS = (
    *("time", "node", "gpu", "utilization_percent", "memory_used_mib", "memory_total_mib"),
    *("power_watts", "temperature_celsius"),
)


class Recorder:
    """Appends a row a node to node_metrics.csv and a row a GPU to gpu_metrics.csv, each time it is asked to.

    Ray renews the figures every 5 s (REPORTER_UPDATE_INTERVAL_MS), so asking more often gains nothing. An empty cell
    was not measured, and a node that does not answer has no row; but a GPU without a reading of its use is 0 in Ray.
    Where a shared node hides no GPUs, those of other jobs are listed too. Use it in a `with`.
    """

    def __init__(self, folder: Path, targets: Callable[[], Mapping[str, str]]) -> None:
        """`targets` gives host:port of the exporters by node name; asked each time, since nodes come and go."""
        self._targets = targets
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="metrics")
        self._tables = Tables(folder, {NODES: NODE_COLUMNS, GPUS: GPU_COLUMNS})

    def sample(self) -> list[str]:
        """Ask all nodes at once and write what they say; the names of those that did not answer within TIMEOUT."""
        targets = self._targets()
        time = datetime.now(UTC).isoformat(timespec="seconds")
        answers = dict(zip(targets, self._pool.map(scrape, targets.values()), strict=True))
        pages = {node: page for node, page in answers.items() if page}
        self._tables.append(NODES, ((time, node, *_node_cells(page[""])) for node, page in pages.items() if "" in page))
        gpus = (
            (time, node, gpu, *_gpu_cells(page[gpu]))
            for node, page in pages.items()
            for gpu in sorted(page.keys() - {""}, key=lambda gpu: (len(gpu), gpu))
        )
        self._tables.append(GPUS, gpus)
        return sorted(answers.keys() - pages.keys())

    def close(self) -> None:
        self._pool.shutdown()
        self._tables.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def recording(folder: Path, targets: Mapping[str, str], period: float = PERIOD) -> Iterator[None]:
    """A Recorder in a thread of its own, which samples every `period` seconds until the `with` ends."""

    def ended(error: OSError) -> None:
        print(f"warning: {folder} no longer gets the nodes' figures: {error}", file=sys.stderr)

    with Recorder(folder, lambda: targets) as recorder, sampling(recorder.sample, period, delay=period, ended=ended):
        yield


def _node_cells(figures: Figures) -> tuple[Cell, ...]:
    return figures.get("cpu_utilization"), *(scaled(figures.get(name), MIB) for name in ("mem_used", "mem_total"))


def _gpu_cells(figures: Figures) -> tuple[Cell, ...]:
    milliwatts, temperature = figures.get("gpu_power_milliwatts"), figures.get("gpu_temperature_celsius")
    return figures.get("gpus_utilization"), *gpu_memory(figures), scaled(milliwatts, 1000), temperature
