"""GPU and node figures of all nodes during a job, as CSV, from the Prometheus exporter that Ray runs on each node."""

import csv
import http.client
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from cluster.api import DIRECT

TIMEOUT = 2.0  # seconds; an idle node makes its page of 350 kB in 26 ms
PERIOD = 5.0  # seconds between samples; Ray renews its figures as often
THREADS = 16  # nodes that are asked at the same time
MIB = 1024**2

NODE_COLUMNS = ("time", "node", "cpu_percent", "memory_used_mib", "memory_total_mib")
GPU_COLUMNS = (
    *("time", "node", "gpu", "utilization_percent", "memory_used_mib", "memory_total_mib"),
    *("power_watts", "temperature_celsius"),
)
# Of the node's own figures, and of each GPU's. The page has a thousand others: all of them take 43 ms, these under 1.
NODE_METRICS = ("cpu_utilization", "mem_used", "mem_total")
GPU_METRICS = (
    *("gpus_utilization", "gram_used", "gram_available"),
    *("gpu_power_milliwatts", "gpu_temperature_celsius"),
)
PREFIX = "ray_node_"
WANTED = tuple(f"{PREFIX}{name}{{" for name in NODE_METRICS + GPU_METRICS)

Figures = dict[str, float]  # metric name, without the prefix, to value
Cell = str | float | None


class Recorder:
    """Appends a row a node to node_metrics.csv and a row a GPU to gpu_metrics.csv, each time it is asked to.

    Ray renews the figures every 5 s (REPORTER_UPDATE_INTERVAL_MS), so asking more often gains nothing. An empty cell
    was not measured, and a node that does not answer has no row; but a GPU without a reading of its use is 0 in Ray.
    Where a shared node hides no GPUs, those of other jobs are listed too. Use it in a `with`.
    """

    def __init__(self, folder: Path, targets: Callable[[], Mapping[str, str]]) -> None:
        """`targets` gives host:port of the exporters by node name; asked each time, since nodes come and go."""
        folder.mkdir(parents=True, exist_ok=True)
        self._targets = targets
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="metrics")
        self._nodes = _Table(folder / "node_metrics.csv", NODE_COLUMNS)
        self._gpus = _Table(folder / "gpu_metrics.csv", GPU_COLUMNS)

    def sample(self) -> list[str]:
        """Ask all nodes at once and write what they say; the names of those that did not answer within TIMEOUT."""
        targets = self._targets()
        time = datetime.now(UTC).isoformat(timespec="seconds")
        answers = dict(zip(targets, self._pool.map(scrape, targets.values()), strict=True))
        pages = {node: page for node, page in answers.items() if page}
        self._nodes.append((time, node, *_node_cells(page[""])) for node, page in pages.items() if "" in page)
        self._gpus.append(
            (time, node, gpu, *_gpu_cells(page[gpu]))
            for node, page in pages.items()
            for gpu in sorted(page.keys() - {""}, key=lambda gpu: (len(gpu), gpu))
        )
        return sorted(answers.keys() - pages.keys())

    def close(self) -> None:
        self._pool.shutdown()
        self._nodes.close()
        self._gpus.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def recording(folder: Path, targets: Mapping[str, str], period: float = PERIOD) -> Iterator[None]:
    """A Recorder in a thread of its own, which samples every `period` seconds until the `with` ends."""
    stopped = threading.Event()

    def record() -> None:
        while not stopped.wait(period):
            recorder.sample()

    with Recorder(folder, lambda: targets) as recorder:
        thread = threading.Thread(target=record, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()  # a sample takes TIMEOUT at most


def scrape(target: str) -> dict[str, Figures] | None:
    """The figures of the exporter at `target` (host:port) by GPU number, "" for the node's own; None without answer.

    The exporter asks for no token, so it gets none.
    """
    try:
        with DIRECT.open(f"http://{target}/metrics", timeout=TIMEOUT) as response:
            return parse(response.read().decode("utf-8"))
    except (OSError, http.client.HTTPException, ValueError):  # refused, timed out, no 200, cut short, another's port
        return None


def parse(page: str) -> dict[str, Figures]:
    """The wanted figures of an exporter's page by GPU number, "" for the node's own. Raises ValueError."""
    figures = dict[str, Figures]()
    lines = [line for line in page.splitlines() if line.startswith(WANTED)]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if math.isfinite(sample.value):
                gpu = sample.labels.get("GpuIndex", "")
                figures.setdefault(gpu, {})[sample.name.removeprefix(PREFIX)] = sample.value
    return figures


def _node_cells(figures: Figures) -> tuple[Cell, ...]:
    cpu, used, total = map(figures.get, NODE_METRICS)
    return cpu, _scaled(used, MIB), _scaled(total, MIB)


def _gpu_cells(figures: Figures) -> tuple[Cell, ...]:
    utilization, used, available, milliwatts, temperature = map(figures.get, GPU_METRICS)
    total = used + available if used is not None and available is not None else None
    return utilization, used, total, _scaled(milliwatts, 1000), temperature


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else round(value / unit, 1)


class _Table:
    """A CSV file that grows; its header is written once, also over several runs."""

    def __init__(self, path: Path, columns: Iterable[str]) -> None:
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        if self._file.tell() == 0:
            self.append([tuple(columns)])

    def append(self, rows: Iterable[tuple[Cell, ...]]) -> None:
        self._writer.writerows(rows)
        self._file.flush()

    def close(self) -> None:
        self._file.close()
