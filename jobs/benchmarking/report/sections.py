"""The sections of the report that have plots: compute, collectives, scaling, the GPUs' use over time."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import get_args

from cluster.probes.sweep import Operation
from jobs.benchmarking.report.findings import (
    RATES,
    Findings,
    at_most_ranks,
    between,
    by_gpu,
    mean_use,
    percent,
    smallest,
)
from jobs.benchmarking.report.reading import BenchResults, GpuReading
from jobs.benchmarking.results import Collectives, Compute, DeviceRates, Training, Transfer
from jobs.pages import plots
from jobs.pages.page import Block, Figure, Items, Table, Text
from jobs.pages.plots import Series, Tick

NOT_MEASURED = "not measured"
BUCKET = 10.0  # seconds of one point of the GPUs' use: two readings a GPU
UNITS = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def figure(value: float) -> str:
    """Three significant digits, and never an exponent."""
    if not value:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def about_compute(compute: Compute | None, found: Findings) -> list[Block]:
    if compute is None:
        return []
    columns = (
        "device",
        "name",
        "type",
        "matrix product, TFLOP/s",
        *(f"{title}, GB/s" for title in list(RATES.values())[1:]),
    )
    rows = [
        (
            _device(device),
            device.name,
            device.dtype,
            figure(device.matmul / 1e12),
            *(_gigabytes(rate) for rate in (device.memory, device.host_to_device, device.device_to_host)),
        )
        for device in compute.devices
    ]
    slow = found.outliers
    blocks: list[Block] = [Table(columns, rows)]
    if slow:
        named = [f"{one.device}: {one.rate} at {percent(one.share)} of the median" for one in slow]
        blocks += [Text("More than a tenth below the median of their kind:"), Items(named)]
    elif len(rows) > 1:
        blocks.append(Text("No device is more than a tenth below the median of its kind."))
    return blocks + _matmul_plot(
        compute.devices, {(one.node, one.index) for one in slow if one.rate == RATES["matmul"]}
    )


def _matmul_plot(devices: Sequence[DeviceRates], slow: set[tuple[str, int | None]]) -> list[Block]:
    if len(devices) < 2:
        return []
    title = "Matrix product of every device, TFLOP/s"
    rows = [
        (_device(one), one.matmul / 1e12, figure(one.matmul / 1e12), (one.node, one.index) in slow) for one in devices
    ]
    return [Figure(plots.bars(rows, title), title + ("; outliers are red." if slow else "."))]


def _device(device: DeviceRates) -> str:
    return device.node if device.index is None else f"{device.node} {device.index}"


def about_collectives(collectives: Collectives | None, found: Findings) -> list[Block]:
    if collectives is None:
        return []
    blocks: list[Block] = [
        Text(f"Backend {collectives.backend}; bandwidths as nccl-tests define them, in GB/s."),
        *_bandwidth_plot(collectives.transfers),
    ]
    for operation in get_args(Operation):
        transfers = [one for one in collectives.transfers if one.operation == operation]
        if transfers:
            blocks += [Text(_headline(operation, found.peaks.get(operation))), _transfers(transfers)]
    return blocks + _pairs(collectives, found.node_bandwidths, found.slow_nodes) + _peer(collectives)


def _headline(operation: Operation, peak: Transfer | None) -> str:
    if peak is None or peak.bus_bandwidth is None:
        return f"`{operation}`: no bus bandwidth was measured."
    return f"`{operation}`: at most {figure(peak.bus_bandwidth / 1e9)} GB/s of bus bandwidth, at {size(peak.size)}."


def _transfers(transfers: Sequence[Transfer]) -> Table:
    rows = [
        (
            size(one.size),
            str(one.ranks),
            figure(one.seconds * 1e6),
            _gigabytes(one.algorithm_bandwidth),
            _gigabytes(one.bus_bandwidth),
            "right" if one.correct else "WRONG",
        )
        for one in sorted(transfers, key=lambda one: (one.ranks, one.size))
    ]
    return Table(("size", "ranks", "µs", "algorithm bandwidth", "bus bandwidth", "result"), rows)


def _bandwidth_plot(transfers: Sequence[Transfer]) -> list[Block]:
    series = []
    for operation in get_args(Operation):
        same = [one for one in at_most_ranks(transfers) if one.operation == operation]
        points = sorted((one.size, one.bus_bandwidth) for one in same if one.bus_bandwidth is not None and one.correct)
        if len(points) > 1:
            series.append(Series(operation, points))
    if not series:
        return []
    sizes = sorted({x for one in series for x, _ in one.points})
    highest = max(y for one in series for _, y in one.points)
    every = math.ceil(len(sizes) / 8)
    x = [Tick(value, size(int(value))) for value in sizes[::-every]]
    title = "Bus bandwidth by size of the message"
    svg = plots.lines(series, x, Tick(highest, f"{figure(highest / 1e9)} GB/s"), title, logarithmic=True)
    return [Figure(svg, title + ", among all ranks.")]


def _pairs(collectives: Collectives, nodes: Mapping[str, float], slow: Mapping[str, float]) -> list[Block]:
    if not collectives.pairs:
        return []
    latency = {node: min(pair.latency for pair in collectives.pairs if node in pair.nodes) for node in nodes}
    rows = [
        (node, _gigabytes(rate), figure(latency[node] * 1e6), f"slow: {percent(slow[node])}" if node in slow else "")
        for node, rate in nodes.items()
    ]
    columns = ("node", "median bus bandwidth to the others, GB/s", "least latency, µs", "of the nodes' median")
    said = f"Slow: {', '.join(slow)}." if slow else "No node is more than a tenth below the median of the nodes."
    if len(nodes) == 2:
        said = "With two nodes alone, the slow one cannot be identified."
    pairs = [
        (*pair.nodes, _gigabytes(pair.bus_bandwidth), figure(pair.latency * 1e6), "right" if pair.correct else "WRONG")
        for pair in sorted(collectives.pairs, key=lambda pair: pair.bus_bandwidth)
    ]
    table = Table(("node", "with", "bus bandwidth, GB/s", "latency, µs", "result"), pairs)
    return [Text("Pairs of nodes, one rank each:"), Table(columns, rows), Text(said), table]


def _peer(collectives: Collectives) -> list[Block]:
    """nccl-tests' own figures beside ours, where both measured the same."""
    ours = {(one.operation, one.size, one.ranks): one.bus_bandwidth for one in collectives.transfers}
    rows = []
    for one in collectives.peer:
        own = ours.get((one.operation, one.size, one.ranks))
        if own is not None and one.bus_bandwidth:
            figures = (_gigabytes(own), _gigabytes(one.bus_bandwidth), percent(own / one.bus_bandwidth))
            rows.append((one.operation, size(one.size), *figures))
    columns = ("operation", "size", "ours, GB/s", "nccl-tests, GB/s", "ours over theirs")
    said = "Beside nccl-tests, bus bandwidth. They launch each message, which of ours the short ones are spared:"
    return [Text(said), Table(columns, rows)] if rows else []


def scaling_plot(runs: Sequence[Training], efficiencies: Sequence[float | None]) -> list[Block]:
    """Tokens/s a worker by workers, with the level line that perfect scaling from the fewest would give."""
    base = smallest(runs)
    scaled = zip(runs, efficiencies, strict=True)
    same = sorted((run.workers, _each(run)) for run, efficiency in scaled if efficiency is not None)
    if base is None or len(same) < 2:
        return []
    level = [(workers, _each(base)) for workers, _ in same]
    series = [Series("measured", same), Series("linear scaling", level, computed=True)]
    x = [Tick(workers, str(workers)) for workers, _ in same]
    title = "Tokens/s a worker by number of workers"
    highest = max(rate for _, rate in same)
    return [Figure(plots.lines(series, x, Tick(highest, figure(highest)), title, logarithmic=True), title + ".")]


def _each(run: Training) -> float:
    return run.tokens_per_second / run.workers


def about_gpu_use(results: BenchResults, found: Findings) -> list[Block]:
    """The GPUs' use over the run, beside MFU."""
    said = Text(
        "Use is not efficiency: it is the share of time in which a GPU ran anything, and a kernel that only waits for "
        "other GPUs counts as much as one that computes. MFU counts the model's arithmetic; read the two together."
    )
    if found.gpu_use is None:
        return [Text("Not measured."), said]
    spans = [("the whole recording", results.gpus)]
    for part, window in results.windows.items():
        end = window.end or datetime.max.replace(tzinfo=UTC)
        spans.append((part, between(results.gpus, window.start, end)))
    rows = [(name, *_use_cells(readings)) for name, readings in spans if readings]
    rows += [(f"GPU {node} {index}", *_use_cells(one)) for (node, index), one in by_gpu(results.gpus).items()]
    columns = ("", "mean use", "most memory", "hottest, °C", "readings")
    return [Table(columns, rows), *_beside_mfu(results, found.training_use), said, *_use_plot(results.gpus)]


def _use_cells(readings: Sequence[GpuReading]) -> tuple[str, ...]:
    use = mean_use(readings)
    memory = max((one.memory for one in readings if one.memory is not None), default=None)
    hottest = max((one.temperature for one in readings if one.temperature is not None), default=None)
    return (
        NOT_MEASURED if use is None else percent(use),
        NOT_MEASURED if memory is None else percent(memory),
        NOT_MEASURED if hottest is None else f"{hottest:.0f}",
        str(len(readings)),
    )


def _beside_mfu(results: BenchResults, use: float | None) -> list[Block]:
    runs = results.train.runs if results.train else []
    largest = max(runs, key=lambda run: run.workers, default=None)
    if use is None or largest is None:
        return []
    mfu = NOT_MEASURED if largest.mfu is None else percent(largest.mfu)
    return [Text(f"In the timed steps of the training on all GPUs: use {percent(use)}, MFU {mfu}.")]


def _use_plot(readings: Sequence[GpuReading]) -> list[Block]:
    buckets: defaultdict[int, list[float]] = defaultdict(list)
    for reading in readings:
        if reading.use is not None:
            buckets[int(reading.time.timestamp() // BUCKET)].append(reading.use)
    points = [(number * BUCKET, fmean(uses)) for number, uses in sorted(buckets.items())]
    if len(points) < 2:
        return []
    times = sorted(reading.time for reading in readings)
    ends = [Tick(points[0][0], f"{times[0]:%H:%M:%S}"), Tick(points[-1][0], f"{times[-1]:%H:%M:%S}")]
    highest = max(use for _, use in points)
    title = "Mean use of all GPUs over the run"
    return [
        Figure(plots.lines([Series("all GPUs", points)], ends, Tick(highest, percent(highest)), title), title + ".")
    ]


def size(count: int) -> str:
    """Bytes in the largest unit that divides them."""
    for unit, name in UNITS:
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count:,} B"


def _gigabytes(rate: float | None) -> str:
    return NOT_MEASURED if rate is None else figure(rate / 1e9)
