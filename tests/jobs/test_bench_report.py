"""The benchmark's report: from the files of a results folder alone, and never a number that is not in them."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.benchmarking.report import findings
from jobs.benchmarking.report.write import write_report
from jobs.benchmarking.results import (
    Collectives,
    Compute,
    DeviceRates,
    Environment,
    NodeHardware,
    Pair,
    Serve,
    Serving,
    Train,
    Training,
    Transfer,
)

NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
# Two nodes with two GPUs each. GPU 1 of n2 works at half speed: 400 / median(800, 800, 800, 400) = 0.5.
DEVICES = [
    DeviceRates(node=node, index=index, name="H200", dtype="bfloat16", matmul=rate, memory=4e12, host_to_device=55e9)
    for node, index, rate in [("n1", 0, 8e14), ("n1", 1, 8e14), ("n2", 0, 8e14), ("n2", 1, 4e14)]
]
NODES = [NodeHardware(name=name, cpus=96, gpus=2, gpu="H200", memory=2**41) for name in ("n1", "n2")]


def training(workers: int, nodes: int, tokens_per_second: float, **changes: Any) -> Training:
    values = {"rows_per_worker": 12, "steps": 7, "seconds": 1.75, "mfu": 0.43, "memory": 2**36}
    return Training.model_validate(
        {"workers": workers, "nodes": nodes, "tokens_per_second": tokens_per_second} | values | changes
    )


def transfer(operation: str, size: int, bus: float | None, **changes: Any) -> Transfer:
    values = {"operation": operation, "size": size, "ranks": 4, "seconds": 2.5e-5, "bus_bandwidth": bus}
    return Transfer.model_validate(values | {"algorithm_bandwidth": 62e9, "correct": True} | changes)


def pair(a: str, b: str, rate: float) -> Pair:
    return Pair(nodes=(a, b), latency=3.1e-5, bus_bandwidth=rate, correct=True)


def fill(folder: Path) -> None:
    """A results folder in which every part was measured."""
    Environment(
        started_at="2026-11-21T12:00:00+00:00",
        device="cuda",
        nodes=NODES,
        versions={"torch": "2.13.0"},
        settings={"NCCL_IB_HCA": "mlx5_0"},
    ).write(folder)
    Compute(devices=DEVICES).write(folder)
    transfers = [transfer("all_reduce", 8, 1e8), transfer("all_reduce", 2**30, 37e9), transfer("broadcast", 8, 2e8)]
    Collectives(backend="nccl", transfers=transfers, pairs=[pair("n1", "n2", 46e9)]).write(folder)
    steps = {"started_at": "2026-11-21T12:10:00+00:00", "ended_at": "2026-11-21T12:10:20+00:00"}
    runs = [training(1, 1, 10_000), training(2, 1, 19_600), training(4, 2, 36_848, **steps)]
    Train(model="org/name", parameters=8 * 10**9, length=2048, runs=runs, largest_micro_batch=24).write(folder)
    ways = [serving("engine", 1000), serving("kosen", 990), serving("vllm_serve", 800, failed=3)]
    Serve(model="org/name", prompt_tokens=256, output_tokens=64, max_num_seqs=8, ways=ways).write(folder)
    (folder / "spec.yaml").write_text("collectives:\n  link_rate: 5.0e+10\n")
    event = {"time": "2026-11-21T12:09:00.000+00:00", "event": "part_started", "part": "train"}
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
    (folder / "gpu_metrics.csv").write_text(GPU_HEADER + "".join(gpu_rows()))


GPU_HEADER = (
    "timestamp,node,gpu_index,gpu_name,utilization_gpu,utilization_memory,memory_used_mb,memory_total_mb,temperature\n"
)


def gpu_rows() -> list[str]:
    """Idle at 12:00, and 96 and 88 % in the timed steps at 12:10."""
    times = [("12:00:00", 0, 0), ("12:10:05", 96, 88), ("12:10:15", 96, 88)]
    return [
        f"2026-11-21T{time}+00:00,{node},{index},H200,{use},,70000,140000,61\n"
        for time, *uses in times
        for index, use in enumerate(uses)
        for node in ("n1", "n2")
    ]


def serving(way: str, tokens: int, failed: int = 0) -> Serving:
    values = {"in_flight": None, "replicas": 1, "requests": 16, "failed": failed, "seconds": 4.0, "client_cpu": None}
    return Serving.model_validate({"way": way, "output_tokens": tokens} | values)


def shown(folder: Path) -> str:
    """What a reader sees of the page and of the Markdown."""
    page = (folder / "report.html").read_text()
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    markdown = html.unescape(re.sub(r"\\(?=[^\w\s])", "", (folder / "report.md").read_text()))
    return html.unescape(re.sub(r"<[^>]*>", " ", page)) + markdown


def numbers(text: str) -> set[str]:
    return set(NUMBER.findall(text))


def test_an_empty_folder_gives_a_report_without_a_digit(tmp_path: Path) -> None:
    write_report(tmp_path)
    assert not numbers(shown(tmp_path))
    assert shown(tmp_path).count("not measured") == 2 * 5  # targets, in both forms
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.pop("output_dir") == str(tmp_path)
    wanted = [target.pop("wanted") for target in summary["targets"]]
    assert wanted == [0.9, 0.95, 0.9, 0.85, 0.8]
    assert not numbers(json.dumps(summary))
    assert list(summary)[:6] == ["timestamp", "model", "nodes", "gpus", "test_type", "selected_nodes"]


def test_every_number_of_the_report_was_measured_or_follows_from_what_was(tmp_path: Path) -> None:
    fill(tmp_path)
    inputs = "".join(path.read_text() for path in tmp_path.iterdir())
    write_report(tmp_path)
    scaled = {
        *("800", "400", "4,000", "55.0"),  # TFLOP/s and GB/s
        *("1", "37.0", "0.100", "0.200", "62.0", "46.0", "25.0", "31.0"),  # GiB, GB/s, µs
        *("2,048", "64.0", "8.00", "1.75", "10,000", "19,600", "36,848", "9,800", "9,212"),  # GiB, steps, tokens/s
        *("4.00", "250", "248", "200", "43.0"),  # serving: s, tokens/s; MFU in %
    }
    derived = {
        "50.0",  # n2's slow GPU, of the median; memory used, of the GPU's
        *("98.0", "92.1", "100.0"),  # scaling: 9,800 and 9,212 and 10,000 tokens/s a worker, of 10,000
        "94.0",  # 9,212 of 9,800: two nodes against one
        "92.0",  # use in the timed steps
        *("61.3", "99.0", "80.0"),  # use of the whole recording: 92 · 2/3; serving of the engine
        "74.0",  # link: 37 of 50
        *("64.0", "58.7", "96.0", "12", "3"),  # use by GPU; readings; of a GPU
        "8",  # readings in the training's window
    }
    wanted = {"80", "90", "95"}  # of the targets that were measured
    assert numbers(shown(tmp_path)) - numbers(inputs) <= scaled | derived | wanted
    for expected in ("94.0", "92.0", "74.0", "61.3", "50.0", "99.0"):
        assert expected in numbers(shown(tmp_path))


def test_use_is_not_measured_where_a_node_has_gpus_that_the_cluster_lacks(tmp_path: Path) -> None:
    fill(tmp_path)
    for time, verdict in (("12:00:00", "pass"), ("12:10:05", "not measured")):  # before the training, and in it
        with (tmp_path / "gpu_metrics.csv").open("a") as file:
            file.write(f"2026-11-21T{time}+00:00,n1,7,H200,0,,0,140000,30\n")
        _, judged = write_report(tmp_path)
        assert (judged[0].name, judged[0].verdict) == ("GPU use", verdict)


def test_targets_pass_and_fail_by_hand_computed_figures(tmp_path: Path) -> None:
    fill(tmp_path)
    _, judged = write_report(tmp_path)
    seen = {target.name: (target.verdict, target.measured and round(target.measured, 6)) for target in judged}
    assert seen == {
        "GPU use": ("pass", 0.92),
        "scaling at two nodes": ("fail", 0.94),
        "scaling at four nodes": ("not measured", None),
        "scaling at eight nodes": ("not measured", None),
        "share of the link rate": ("fail", 0.74),
    }
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["nodes"], summary["gpus"], summary["selected_nodes"]) == (2, 4, ["n1", "n2"])
    assert summary["model"] == "org/name" and summary["test_type"] == "compute+collectives+train+serve"
    assert [run["scaling_efficiency"] for run in summary["training"]] == pytest.approx([1, 0.98, 0.9212])
    text = shown(tmp_path)
    assert "n2, GPU 1 reaches 50.0 % of the median in matrix product" in text
    assert "begin with the network" in text
    assert "3 of 16 requests failed through vllm_serve" in text


def test_unequal_rows_a_worker_are_no_scaling() -> None:
    runs = [training(2, 1, 20_000), training(4, 2, 40_000, rows_per_worker=6)]
    assert findings.efficiency(runs[1], runs[0]) is None
    assert findings.node_efficiency(runs, 2) is None


def test_scaling_compares_nodes_that_are_equally_full() -> None:
    runs = [training(1, 1, 10_000), training(8, 1, 72_000), training(16, 2, 136_800)]
    assert findings.node_efficiency(runs, 2) == pytest.approx(0.95)  # against 8 on one node, not against 1
    assert findings.node_efficiency(runs[::2], 2) is None


def test_a_training_that_left_gpus_idle_says_nothing_of_their_use(tmp_path: Path) -> None:
    fill(tmp_path)
    steps = {"started_at": "2026-11-21T12:10:00+00:00", "ended_at": "2026-11-21T12:10:20+00:00"}
    Train(model="m", parameters=1, length=8, runs=[training(2, 1, 1.0, **steps)]).write(tmp_path)
    _, judged = write_report(tmp_path)
    assert judged[0].verdict == "not measured"


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        ([100, 100, 100, 91], []),
        ([100, 100, 100, 89], [3]),
        ([100, 50], [1]),  # of the median of the two, 75
        ([100], []),
    ],
)
def test_outliers_are_below_the_median_by_more_than_a_tenth(rates: list[float], named: list[int]) -> None:
    devices = [DEVICES[0].model_copy(update={"index": i, "memory": rate}) for i, rate in enumerate(rates)]
    assert [one.index for one in findings.outliers(devices)] == named


def test_kinds_of_devices_are_not_compared() -> None:
    other = DEVICES[0].model_copy(update={"name": "A100", "matmul": 3e14})
    assert findings.outliers([*DEVICES[:3], other]) == []


@pytest.mark.parametrize("count", [3, 4, 8])
def test_the_slow_node_is_named(count: int) -> None:
    nodes = [f"n{number}" for number in range(count)]
    pairs = [pair(a, b, 20e9 if "n1" in (a, b) else 46e9) for place, a in enumerate(nodes) for b in nodes[place + 1 :]]
    assert list(findings.slow_nodes(pairs)) == ["n1"]
    assert findings.slow_nodes([pair("n1", "n2", 20e9)]) == {}  # two nodes can't tell which


def test_wrong_results_are_no_peak_and_are_said(tmp_path: Path) -> None:
    transfers = [transfer("all_reduce", 8, 1e9), transfer("all_reduce", 16, 9e9, correct=False)]
    Collectives(backend="gloo", transfers=transfers).write(tmp_path)
    write_report(tmp_path)
    assert "at most 1.00 GB/s" in shown(tmp_path)
    assert "all_reduce gave wrong results" in shown(tmp_path)


def test_damage_is_named_and_the_rest_is_reported(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "compute.json").write_text('{"devices": [{"node"')
    with (tmp_path / "gpu_metrics.csv").open("a") as file:
        file.write("2026-11-21T12:20:00+00:00,n1,0,H2")  # torn by a kill
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": "2026')
    results, _ = write_report(tmp_path)
    assert [Path(problem.split()[0].rstrip(":")).name for problem in results.problems] == [
        "compute.json",
        "gpu_metrics.csv",
    ]
    text = shown(tmp_path)
    assert "compute.json is not a result of this version" in text and "skipped 1 damaged rows" in text
    assert "Measured: collectives, train, serve." in text


def test_a_part_that_failed_says_why(tmp_path: Path) -> None:
    events = [
        {"time": "2026-11-21T12:00:00.000+00:00", "event": "part_started", "part": "train"},
        {"time": "2026-11-21T12:01:00.000+00:00", "event": "part_failed", "part": "train", "error": "no <GPU> left"},
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    write_report(tmp_path)
    assert shown(tmp_path).count("It ended without all of its figures: no <GPU> left") == 2
    assert "<GPU>" not in (tmp_path / "report.html").read_text()


def test_the_page_stands_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 4  # devices, bandwidths, scaling, use
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
