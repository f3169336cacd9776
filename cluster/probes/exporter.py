"""GPU and node figures out of the Prometheus exporter that Ray runs on each node."""

import http.client
import math

from prometheus_client.parser import text_string_to_metric_families

from cluster.dashboard import DIRECT
from cluster.machine.network import host_port

TIMEOUT = 2.0  # seconds; an idle node makes its page of 350 kB in 26 ms
MIB = 1024**2

# Of the node's own figures, and of each GPU's. The page has a thousand others: all of them take 43 ms, these under 1.
NODE_METRICS = ("cpu_utilization", "mem_used", "mem_available", "mem_total")
GPU_METRICS = (
    *("gpus_utilization", "gram_used", "gram_available"),
    *("gpu_power_milliwatts", "gpu_temperature_celsius"),
)
PREFIX = "ray_node_"
WANTED = tuple(f"{PREFIX}{name}{{" for name in NODE_METRICS + GPU_METRICS)

Figures = dict[str, float]  # metric name, without the prefix, to value


def scrape(target: str) -> dict[str, Figures] | None:
    """The figures of the exporter at `target` (host:port) by GPU number, "" for the node's own; None without answer.

    The exporter asks for no token, so it gets none.
    """
    try:
        with DIRECT.open(f"http://{target}/metrics", timeout=TIMEOUT) as response:
            return parse(response.read().decode("utf-8"))
    except (OSError, http.client.HTTPException, ValueError):  # refused, timed out, no 200, cut short, another's port
        return None


def scrape_node(ip: str, port: int) -> dict[str, Figures] | None:
    """`scrape` of the exporter that listens there."""
    return scrape(host_port(ip, port))


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


def gpu_memory(figures: Figures) -> tuple[float | None, float | None]:
    """Used and total MiB of a GPU."""
    used, available = figures.get("gram_used"), figures.get("gram_available")
    return used, used + available if used is not None and available is not None else None


def scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else round(value / unit, 1)
