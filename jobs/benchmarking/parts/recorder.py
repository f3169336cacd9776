"""What all nodes do while the benchmark runs, as CSV with the seed's columns, until it ends.

An actor on each node reads the page of Ray's exporter there (renewed every 5 s), and by itself what that lacks:
interfaces, InfiniBand ports, load averages, free memory, the GPUs' names and memory utilisation. Sizes in "mb" are MiB,
as nvidia-smi and free have them; a cell that was not measured is empty.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.probes.counters import PORT_COUNTERS, read_interfaces, read_ports
from cluster.probes.exporter import MIB, Figures, gpu_memory, scaled, scrape_node
from cluster.probes.gpus import read_memory_use
from cluster.probes.table import Cell, Tables, sampling
from orchestrator.console import say
from orchestrator.errors import storage_error

PERIOD = 5.0  # seconds between samples
PATIENCE = 2.0  # seconds that a sample waits for its nodes; who is later is written with the next one
DRIVER_TIMEOUT = 4.0  # seconds for nvidia-smi, which takes under one while the driver is loaded

TABLES = {
    "gpu_metrics.csv": (
        *("gpu_index", "gpu_name", "utilization_gpu", "utilization_memory"),
        *("memory_used_mb", "memory_total_mb", "temperature"),
    ),
    "network_metrics.csv": ("interface", "rx_bytes", "tx_bytes", "rx_packets", "tx_packets"),
    "cpu_metrics.csv": ("cpu_usage", "load_1min", "load_5min", "load_15min"),
    "memory_metrics.csv": ("total_mb", "used_mb", "free_mb", "available_mb"),
    "ib_metrics.csv": ("port", *PORT_COUNTERS),
}

Rows = dict[str, list[tuple[Cell, ...]]]  # by table; each row without time and node


class NodeReader:
    """Reads one node, on it."""

    def __init__(self, ip: str, port: int) -> None:
        self._exporter = ip, port
        self._ask_driver = True

    def read(self) -> tuple[str, Rows]:
        """The node's own time as ISO 8601 in UTC, and its rows."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        page = scrape_node(*self._exporter) or {}
        node = page.pop("", {})
        return time, {
            "gpu_metrics.csv": self._gpus(page),
            "network_metrics.csv": [astuple(interface) for interface in read_interfaces()],
            "cpu_metrics.csv": [(node.get("cpu_utilization"), *os.getloadavg())],
            "memory_metrics.csv": _memory(node),
            "ib_metrics.csv": [(port, *counters) for port, counters in read_ports().items()],
        }

    def _gpus(self, page: dict[str, Figures]) -> list[tuple[Cell, ...]]:
        known = read_memory_use(DRIVER_TIMEOUT) if self._ask_driver else {}
        self._ask_driver = known is not None  # one that hangs leaves a process behind each time
        names = known or {}
        numbers = sorted(page.keys() | names.keys(), key=lambda gpu: (len(gpu), gpu))
        return [(gpu, *_gpu_cells(page.get(gpu, {}), *names.get(gpu, ("", None)))) for gpu in numbers]


def _gpu_cells(figures: Figures, name: str, memory_use: float | None) -> tuple[Cell, ...]:
    use, temperature = figures.get("gpus_utilization"), figures.get("gpu_temperature_celsius")
    return name, use, memory_use, *gpu_memory(figures), temperature


def _memory(node: Figures) -> list[tuple[Cell, ...]]:
    """Ray counts what a container may have. What is free of the host's memory is told only where that is the same."""
    total, used, available = (node.get(f"mem_{name}") for name in ("total", "used", "available"))
    if total is None:
        return []
    host = psutil.virtual_memory()
    free = host.free if host.total == total else None
    return [tuple(scaled(value, MIB) for value in (total, used, free, available))]


@dataclass(frozen=True, slots=True)
class _Node:
    id: str
    name: str
    ip: str
    port: int  # of Ray's exporter


class NodeRecorder:
    """A reader on every living node; `sample` appends what they say. A node that dies only stops having rows."""

    def __init__(self, folder: Path) -> None:
        self._tables = Tables(folder, {name: ("timestamp", "node", *columns) for name, columns in TABLES.items()})
        self._readers: dict[str, ActorHandle] = {}  # by node id
        self._asked: dict[ray.ObjectRef, _Node] = {}

    def sample(self) -> None:
        """Ask the nodes that have answered so far, and write what arrives within PATIENCE. Without a head nothing is
        written, and the benchmark's parts say so."""
        with suppress(RayError):
            self._ask()

    def _ask(self) -> None:
        for node in _nodes():
            if node not in self._asked.values():
                self._asked[self._reader(node).read.remote()] = node
        if not self._asked:
            return
        ready, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=PATIENCE)
        for answer in ready:
            self._write(self._asked.pop(answer), answer)

    def close(self) -> None:
        for reader in self._readers.values():
            with suppress(RayError):
                ray.kill(reader)
        self._tables.close()

    def _reader(self, node: _Node) -> ActorHandle:
        if node.id not in self._readers:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            remote: Any = ray.remote(num_cpus=0)(NodeReader)
            self._readers[node.id] = remote.options(scheduling_strategy=there).remote(node.ip, node.port)
        return self._readers[node.id]

    def _write(self, node: _Node, answer: ray.ObjectRef) -> None:
        try:
            time, rows = ray.get(answer)
        except RayError:  # the node or its reader has died; one that returns gets a new one
            self._readers.pop(node.id, None)
            return
        for name, found in rows.items():
            self._tables.append(name, ((time, node.name, *row) for row in found))


def _nodes() -> list[_Node]:
    return [
        _Node(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"], node["MetricsExportPort"])
        for node in ray.nodes()
        if node["Alive"]
    ]


@contextmanager
def recording(folder: Path, period: float = PERIOD) -> Iterator[None]:
    """Record all nodes into `folder` while the block runs; its files are whole when it ends, however it ends.

    Raises StorageFailed where the files cannot be opened; a disk that is full later ends the recording alone.
    """
    try:
        recorder = NodeRecorder(folder)
    except OSError as error:
        raise storage_error(error, folder) from error

    def ended(error: OSError) -> None:
        say(f"warning: the nodes are no longer recorded: {error}")

    with closing(recorder), sampling(recorder.sample, period, delay=0.0, ended=ended):
        yield
