"""What the nodes did during a benchmark: the seed's columns, from real nodes; nothing where nothing was read."""

import csv
import math
import os
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.probes.counters import read_ports
from jobs.benchmarking.parts.recorder import NodeReader, recording
from orchestrator.ray_cluster.connect import connect
from tests.support.harness import wait_for

COLUMNS = {
    "gpu_metrics.csv": "timestamp,node,gpu_index,gpu_name,utilization_gpu,utilization_memory,"
    "memory_used_mb,memory_total_mb,temperature",
    "network_metrics.csv": "timestamp,node,interface,rx_bytes,tx_bytes,rx_packets,tx_packets",
    "cpu_metrics.csv": "timestamp,node,cpu_usage,load_1min,load_5min,load_15min",
    "memory_metrics.csv": "timestamp,node,total_mb,used_mb,free_mb,available_mb",
    "ib_metrics.csv": "timestamp,node,port,port_xmit_data,port_rcv_data,port_xmit_packets,port_rcv_packets",
}


def rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_local_cluster_is_recorded_until_it_is_interrupted(cluster: dict[str, Any], tmp_path: Path) -> None:
    began = datetime.now(UTC) - timedelta(seconds=1)
    with connect():  # noqa: SIM117 - the interruption ends the recording, not the connection
        with pytest.raises(KeyboardInterrupt), recording(tmp_path, period=0.3):
            wait_for(lambda: len(rows(tmp_path / "memory_metrics.csv")) > 1, 60, "two samples of the node")
            raise KeyboardInterrupt
    for name, columns in COLUMNS.items():
        assert (tmp_path / name).read_text().splitlines()[0] == columns
        for row in rows(tmp_path / name):
            assert None not in row and None not in row.values()  # as many cells as columns
            assert began <= datetime.fromisoformat(row["timestamp"]) <= datetime.now(UTC)
    processor, memory = rows(tmp_path / "cpu_metrics.csv")[-1], rows(tmp_path / "memory_metrics.csv")[-1]
    assert processor["node"] == memory["node"] == cluster["nodes"][0]["name"]
    assert 0 <= float(processor["cpu_usage"]) <= 100
    assert all(float(processor[f"load_{minutes}min"]) >= 0 for minutes in (1, 5, 15))
    assert float(memory["used_mb"]) + float(memory["available_mb"]) == pytest.approx(float(memory["total_mb"]), rel=0.5)
    known = psutil.net_io_counters(pernic=True)
    for row in rows(tmp_path / "network_metrics.csv"):
        assert 0 < int(row["rx_packets"]) <= known[row["interface"]].packets_recv + 10**6


def test_without_rays_exporter_its_cells_are_empty_and_its_rows_left_out() -> None:
    time, read = NodeReader("127.0.0.1", 9).read()
    assert datetime.fromisoformat(time).tzinfo
    assert read["memory_metrics.csv"] == []
    ((use, *loads),) = read["cpu_metrics.csv"]
    assert use is None and all(isinstance(load, float) and math.isfinite(load) for load in loads)


PAGE = """ray_node_gpus_utilization{GpuIndex="1",ip="10.0.0.1"} 97.0
ray_node_gram_used{GpuIndex="1",ip="10.0.0.1"} 71680.0
ray_node_gram_available{GpuIndex="1",ip="10.0.0.1"} 72091.0
ray_node_cpu_utilization{ip="10.0.0.1"} 12.5
ray_node_mem_total{ip="10.0.0.1"} 8388608.0
ray_node_mem_used{ip="10.0.0.1"} 2097152.0
ray_node_mem_available{ip="10.0.0.1"} 6291456.0
"""


class Exporter(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *_: object) -> None:
        pass


def test_a_gpus_row_is_of_rays_page_and_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text('#!/bin/sh\necho "0, NVIDIA H200, [N/A]"\necho "1, NVIDIA H200, 44"\n')
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    _, read = NodeReader("127.0.0.1", server.server_address[1]).read()
    server.shutdown()
    server.server_close()
    assert read["gpu_metrics.csv"] == [
        ("0", "NVIDIA H200", None, None, None, None, None),
        ("1", "NVIDIA H200", 97.0, 44.0, 71680.0, 143771.0, None),
    ]
    assert read["cpu_metrics.csv"][0][0] == 12.5
    assert read["memory_metrics.csv"] == [(8.0, 2.0, None, 6.0)]  # of a container: the host's free memory is another


def test_infiniband_ports_are_read_as_the_kernel_counts(tmp_path: Path) -> None:
    counters = tmp_path / "mlx5_0" / "ports" / "1" / "counters"
    counters.mkdir(parents=True)
    for name, value in [("port_xmit_data", "123456789012"), ("port_rcv_data", "7"), ("port_xmit_packets", "N/A")]:
        (counters / name).write_text(value + "\n")
    assert read_ports(tmp_path) == {"mlx5_0/1": [123456789012, 7, None, None]}
    assert read_ports(tmp_path / "none") == {}
