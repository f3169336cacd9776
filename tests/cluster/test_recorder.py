"""GPU and node metrics: Ray's own exporter pages in, rows out; silent nodes leave none."""

import csv
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.probes.exporter import GPU_METRICS, NODE_METRICS, TIMEOUT, parse
from cluster.probes.recorder import GPU_COLUMNS, Recorder, recording
from cluster.probes.table import sampling

MIB = 1024**2


def gpu(index: int, **changes: Any) -> dict[str, Any]:
    known = {"name": 'H "200"', "uuid": f"GPU-{index}", "utilization_gpu": 97, "memory_used": 71680}
    return {"index": index, **known, "memory_total": 143360, "power_mw": 512_300, "temperature_c": 61, **changes}


def ray_page(gpus: list[dict[str, Any]]) -> str:
    """What Ray's agent makes of a node's readings, through its own code: a new Ray may name things anew."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
    from ray.dashboard.modules.reporter.reporter_agent import ReporterAgent

    no_disk = SimpleNamespace(used=0, free=1, percent=0.0)
    readings: dict[str, Any] = {
        "ip": "10.0.0.1",
        "cpu": 12.5,
        "mem": (64 * 1024 * MIB, 48 * 1024 * MIB, 25.0, 16 * 1024 * MIB),  # bytes: total, available, percent, used
        "gpus": gpus,
        **dict.fromkeys(("cpus", "host_mem", "network", "network_speed"), (1, 1)),
        **dict.fromkeys(("disk_io", "disk_io_speed"), (0, 0, 0, 0)),
        **dict.fromkeys(("shm", "swap", "cgroup_mem", "raylet", "agent", "gcs")),
        **dict.fromkeys(("tpus", "workers"), ()),
        "disk": {"/": no_disk},
    }
    agent = SimpleNamespace(_is_head_node=False, generate_worker_stats_record=lambda _: [])
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for record in ReporterAgent._to_records(agent, readings, {}):
        name = f"ray_{record.gauge.name}"
        if name not in gauges:
            gauges[name] = Gauge(name, "", sorted(record.tags), registry=registry)
        gauges[name].labels(**record.tags).set(record.value)
    return generate_latest(registry).decode()


class Exporter(BaseHTTPRequestHandler):
    page = ""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(self.page.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def exporter() -> Iterator[tuple[str, type[Exporter]]]:
    """An exporter's host:port, and the handler whose `page` it shows."""
    handler = type("Paged", (Exporter,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rays_own_page_becomes_rows(exporter: tuple[str, type[Exporter]], tmp_path: Path) -> None:
    target, handler = exporter
    handler.page = ray_page([gpu(10), gpu(2, power_mw=None, temperature_c=None)])
    with Recorder(tmp_path, lambda: {"n1": target}) as recorder:
        assert recorder.sample() == []
        gpus, nodes = rows(tmp_path / "gpu_metrics.csv"), rows(tmp_path / "node_metrics.csv")  # flushed by now
    assert [row["gpu"] for row in gpus] == ["2", "10"]
    assert list(gpus[1].values())[1:] == ["n1", "10", "97.0", "71680.0", "143360.0", "512.3", "61.0"]
    assert (gpus[0]["power_watts"], gpus[0]["temperature_celsius"]) == ("", "")  # not measured is not 0
    assert list(nodes[0].values())[1:] == ["n1", "12.5", "16384.0", "65536.0"]
    assert nodes[0]["time"] == gpus[0]["time"] and nodes[0]["time"].endswith("+00:00")


def test_ray_still_has_all_the_metrics_that_are_read() -> None:
    figures = parse(ray_page([gpu(0)]))
    assert figures[""].keys() == set(NODE_METRICS)
    assert figures["0"].keys() == set(GPU_METRICS)


def test_a_machine_without_gpus_has_an_empty_gpu_file(exporter: tuple[str, type[Exporter]], tmp_path: Path) -> None:
    target, handler = exporter
    handler.page = ray_page([])
    with Recorder(tmp_path, lambda: {"n1": target}) as recorder:
        recorder.sample()
    assert (tmp_path / "gpu_metrics.csv").read_text().splitlines() == [",".join(GPU_COLUMNS)]
    assert len(rows(tmp_path / "node_metrics.csv")) == 1


def test_silent_nodes_have_no_row_and_delay_nobody(exporter: tuple[str, type[Exporter]], tmp_path: Path) -> None:
    target, handler = exporter
    handler.page = ray_page([gpu(0)])
    with socket.create_server(("127.0.0.1", 0)) as silent, Recorder(tmp_path, lambda: nodes) as recorder:
        hanging = {f"hangs{number}": f"127.0.0.1:{silent.getsockname()[1]}" for number in range(4)}
        nodes = {**hanging, "n1": target, "refuses": "127.0.0.1:9"}
        start = time.monotonic()
        assert recorder.sample() == sorted([*hanging, "refuses"])
        assert time.monotonic() - start < TIMEOUT + 1  # at the same time, not one after another
    assert [row["node"] for row in rows(tmp_path / "node_metrics.csv")] == ["n1"]


def test_nodes_come_and_go_and_a_second_run_goes_on_in_the_file(
    exporter: tuple[str, type[Exporter]], tmp_path: Path
) -> None:
    target, handler = exporter
    handler.page = "ray_node_cpu_utilization{} NaN\nray_node_mem_used{} 1048576\nray_other{} 3\n"
    rounds = [{"n1": target}, {"n1": target, "n2": target}, {}]
    for targets in rounds:
        with Recorder(tmp_path, lambda targets=targets: targets) as recorder:  # type: ignore[misc]
            recorder.sample()
    written = rows(tmp_path / "node_metrics.csv")
    assert [row["node"] for row in written] == ["n1", "n1", "n2"]
    assert (written[0]["cpu_percent"], written[0]["memory_used_mib"], written[0]["memory_total_mib"]) == ("", "1.0", "")


def test_a_local_run_is_sampled_until_its_end(exporter: tuple[str, type[Exporter]], tmp_path: Path) -> None:
    target, handler = exporter
    handler.page = ray_page([gpu(0)])
    deadline = time.monotonic() + 10
    with recording(tmp_path, {"n1": target}, period=0.05):
        while not rows(tmp_path / "gpu_metrics.csv") and time.monotonic() < deadline:
            time.sleep(0.02)
    assert rows(tmp_path / "gpu_metrics.csv")[0]["utilization_percent"] == "97.0"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("metrics")]


@pytest.mark.parametrize("page", ["ray_node_mem_used{ip=", "ray_node_mem_used{} many\n", "<html>another's</html>"])
def test_a_page_that_is_none_gives_no_row(exporter: tuple[str, type[Exporter]], tmp_path: Path, page: str) -> None:
    target, handler = exporter
    handler.page = page
    with Recorder(tmp_path, lambda: {"n1": target}) as recorder:
        assert recorder.sample() == ["n1"]
    assert rows(tmp_path / "node_metrics.csv") == []


def test_a_full_disk_ends_the_recording_alone(
    exporter: tuple[str, type[Exporter]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(self: Recorder) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recorder, "sample", full)
    with recording(tmp_path, {"n1": exporter[0]}, period=0.01):
        deadline = time.monotonic() + 10
        while any(thread.name == "metrics" for thread in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.01)
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and said.count("\n") == 1 and "No space left on device" in said


def test_the_first_sample_is_taken_after_the_delay_and_none_after_the_end() -> None:
    for delay, early in ((0.0, True), (60.0, False)):
        taken = threading.Event()
        with sampling(taken.set, 60.0, delay=delay, ended=print):
            assert taken.wait(10 if early else 0.1) is early
