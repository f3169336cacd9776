"""What follows from a benchmark's figures: outliers, slow nodes, scaling efficiency, targets. Pure functions."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import fmean, median
from typing import Literal

from cluster.probes.sweep import Operation
from jobs.benchmarking.report.reading import BenchResults, GpuReading
from jobs.benchmarking.results import Collectives, DeviceRates, Pair, Serving, Train, Training, Transfer

OUTLIER_SHARE = 0.9  # of the median: GPUs of one kind are within a few per cent of each other
RATES = {
    "matmul": "matrix product",
    "memory": "memory copy",
    "host_to_device": "host to device",
    "device_to_host": "device to host",
}
GPU_USE = 0.9
SCALING = {2: 0.95, 4: 0.90, 8: 0.85}  # nodes → efficiency
SCALING_NAMES = {2: "scaling at two nodes", 4: "scaling at four nodes", 8: "scaling at eight nodes"}
LINK_SHARE = 0.8

Verdict = Literal["pass", "fail", "not measured"]


@dataclass(frozen=True, slots=True)
class Outlier:
    """A device whose `rate` is below OUTLIER_SHARE of the median of its kind; `share` is of that median."""

    node: str
    index: int | None
    rate: str  # a value of RATES
    share: float

    @property
    def device(self) -> str:
        return f"{self.node}, CPU" if self.index is None else f"{self.node}, GPU {self.index}"


@dataclass(frozen=True, slots=True)
class Target:
    """A bar and what was measured against it, both as shares of one. `missing` says what a measurement lacks."""

    name: str
    wanted: float
    measured: float | None
    missing: str

    @property
    def verdict(self) -> Verdict:
        if self.measured is None:
            return "not measured"
        return "pass" if self.measured >= self.wanted else "fail"

    def sentence(self) -> str:
        if self.measured is None:
            return f"{self.name}: not measured, needs {self.missing}"
        return f"{self.name}: {self.verdict}, {percent(self.measured)} of at least {self.wanted * 100:.0f} %"


@dataclass(frozen=True, slots=True)
class Findings:
    """What follows from one results folder; `find` computes it once, the report's three forms render it."""

    outliers: list[Outlier]
    peaks: dict[Operation, Transfer]
    node_bandwidths: dict[str, float]  # bytes/s, by node
    slow_nodes: dict[str, float]  # shares of the nodes' median
    efficiencies: list[float | None]  # of the trainings, in their order
    serving_ratios: list[float | None]  # of the ways of serving, in their order
    gpu_use: float | None
    training_use: float | None
    targets: list[Target]
    recommendations: list[str]  # empty where nothing that was measured asks for one


def find(results: BenchResults) -> Findings:
    runs = results.train.runs if results.train else []
    pairs = results.collectives.pairs if results.collectives else []
    slow_devices, slow = outliers(results.compute.devices if results.compute else []), slow_nodes(pairs)
    use, best = training_use(results), peaks(results.collectives.transfers if results.collectives else [])
    bars = _targets(runs, use, link_share(results, best))
    return Findings(
        outliers=slow_devices,
        peaks=best,
        node_bandwidths=node_bandwidths(pairs),
        slow_nodes=slow,
        efficiencies=efficiencies(runs),
        serving_ratios=serving_ratios(results.serve.ways if results.serve else []),
        gpu_use=mean_use(results.gpus),
        training_use=use,
        targets=bars,
        recommendations=[
            *_about_devices(slow_devices),
            *_about_collectives(results.collectives, slow),
            *_about_training(results.train, bars),
            *_about_serving(results.serve.ways if results.serve else []),
        ],
    )


def outliers(devices: Sequence[DeviceRates]) -> list[Outlier]:
    """Devices that are slower than others of the same name and type, in any of RATES."""
    kinds: defaultdict[tuple[str, str], list[DeviceRates]] = defaultdict(list)
    for device in devices:
        kinds[device.name, device.dtype].append(device)
    return [
        Outlier(device.node, device.index, title, share)
        for same in kinds.values()
        for field, title in RATES.items()
        for device, share in _below(same, field)
    ]


def _below(devices: Sequence[DeviceRates], field: str) -> list[tuple[DeviceRates, float]]:
    known = [(device, getattr(device, field)) for device in devices if getattr(device, field) is not None]
    middle = median([rate for _, rate in known]) if known else 0.0
    return [(device, rate / middle) for device, rate in known if rate < OUTLIER_SHARE * middle]


def at_most_ranks(transfers: Sequence[Transfer]) -> list[Transfer]:
    """Those among all ranks, which is what a job sees."""
    ranks = max((transfer.ranks for transfer in transfers), default=0)
    return [transfer for transfer in transfers if transfer.ranks == ranks]


def peaks(transfers: Sequence[Transfer]) -> dict[Operation, Transfer]:
    """For each operation the size with the most bus bandwidth among all ranks; wrong results don't count."""
    best: dict[Operation, Transfer] = {}
    for transfer in sorted(at_most_ranks(transfers), key=lambda one: one.bus_bandwidth or 0):
        if transfer.correct and transfer.bus_bandwidth is not None:
            best[transfer.operation] = transfer
    return best


def node_bandwidths(pairs: Sequence[Pair]) -> dict[str, float]:
    """Bytes/s by node: the median of the bus bandwidth over the pairs that it is in."""
    by_node: defaultdict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        for node in pair.nodes:
            by_node[node].append(pair.bus_bandwidth)
    return {node: median(rates) for node, rates in sorted(by_node.items())}


def slow_nodes(pairs: Sequence[Pair]) -> dict[str, float]:
    """The nodes below OUTLIER_SHARE of the median of all nodes, with their share of it. Two nodes are not enough."""
    nodes = node_bandwidths(pairs)
    middle = median(nodes.values()) if nodes else 0.0
    return {node: rate / middle for node, rate in nodes.items() if rate < OUTLIER_SHARE * middle}


def efficiency(run: Training, base: Training) -> float | None:
    """Weak scaling: (throughput / workers) over that of `base`. None where a worker's share of the work differs."""
    if run.rows_per_worker != base.rows_per_worker:
        return None
    return (run.tokens_per_second / run.workers) / (base.tokens_per_second / base.workers)


def efficiencies(runs: Sequence[Training]) -> list[float | None]:
    """Weak scaling of each run, against that of the fewest workers."""
    base = smallest(runs)
    return [efficiency(run, base) if base else None for run in runs]


def smallest(runs: Sequence[Training]) -> Training | None:
    """The run that the others are compared with: that of the fewest workers."""
    return min(runs, key=lambda run: run.workers, default=None)


def node_efficiency(runs: Sequence[Training], nodes: int) -> float | None:
    """Of the largest run on so many nodes against one node with as many workers a node. None: not both measured."""
    run = max((run for run in runs if run.nodes == nodes), key=lambda run: run.workers, default=None)
    bases = (base for base in runs if base.nodes == 1 and run and base.workers * nodes == run.workers)
    base = next((base for base in bases if run and base.rows_per_worker == run.rows_per_worker), None)
    return efficiency(run, base) if run and base else None


def serving_ratios(ways: Sequence[Serving]) -> list[float | None]:
    """Output tokens/s a replica, over that of the engine alone; None without one."""
    engine = next((way for way in ways if way.way == "engine"), None)
    return [_per_replica(way) / _per_replica(engine) if engine and engine.output_tokens else None for way in ways]


def _per_replica(way: Serving) -> float:
    return way.output_tokens / way.seconds / way.replicas


def between(readings: Iterable[GpuReading], start: datetime, end: datetime) -> list[GpuReading]:
    return [reading for reading in readings if start <= reading.time <= end]


def mean_use(readings: Iterable[GpuReading]) -> float | None:
    """The mean share of time in which a GPU ran something; None where nothing was read."""
    known = [reading.use for reading in readings if reading.use is not None]
    return fmean(known) if known else None


def training_use(results: BenchResults) -> float | None:
    """Mean use of all GPUs during the timed steps of the largest training; None unless it used all of them.

    Also None where the driver of a node shows others than the cluster has: whose they are is not known.
    """
    runs = results.train.runs if results.train else []
    run = max(runs, key=lambda run: run.workers, default=None)
    if run is None or run.started_at is None or run.ended_at is None or results.environment is None:
        return None
    start, end = datetime.fromisoformat(run.started_at), datetime.fromisoformat(run.ended_at)
    readings = between(results.gpus, start, end)
    seen = len({(reading.node, reading.index) for reading in readings})
    if not run.workers == seen == sum(node.gpus for node in results.environment.nodes):
        return None
    return mean_use(readings)


def link_share(results: BenchResults, best: Mapping[Operation, Transfer]) -> float | None:
    """The peak bus bandwidth of an all-reduce over the link's rate; NVLink SHARP can bring more than one."""
    rate = results.spec.collectives.link_rate if results.spec else None
    peak = best.get("all_reduce")
    return peak.bus_bandwidth / rate if peak and peak.bus_bandwidth and rate else None


def _targets(runs: Sequence[Training], use: float | None, link: float | None) -> list[Target]:
    """The benchmark's bars, each with what was measured against it."""
    on_gpus = Target(
        "GPU use",
        GPU_USE,
        use,
        "a training on all GPUs of all nodes that lasts longer than a few readings",
    )
    scaling = [
        Target(
            SCALING_NAMES[nodes],
            wanted,
            node_efficiency(runs, nodes),
            "trainings of that size and on one node, with as many workers a node",
        )
        for nodes, wanted in SCALING.items()
    ]
    links = Target("share of the link rate", LINK_SHARE, link, "all-reduce, and collectives.link_rate=")
    return [on_gpus, *scaling, links]


def _about_devices(found: Sequence[Outlier]) -> list[str]:
    worst: dict[str, Outlier] = {}
    for outlier in sorted(found, key=lambda one: one.share, reverse=True):
        worst[outlier.device] = outlier
    return [
        f"{device} reaches {percent(one.share)} of the median in {one.rate}: {_look(one)}, and leave the node out of "
        "jobs until it is as fast as the others"
        for device, one in worst.items()
    ]


def _look(outlier: Outlier) -> str:
    if outlier.index is None:
        return "see what else runs on it (`top`)"
    return "check its clocks and temperature (`nvidia-smi -q -d PERFORMANCE`)"


def _about_collectives(collectives: Collectives | None, slow: Mapping[str, float]) -> list[str]:
    if collectives is None:
        return []
    wrong = sorted({transfer.operation for transfer in collectives.transfers if not transfer.correct})
    torn = [" and ".join(pair.nodes) for pair in collectives.pairs if not pair.correct]
    return [
        *(f"{operation} gave wrong results: do not train here until that is explained" for operation in wrong),
        *(f"the all-reduce between {pair} gave wrong results: test each with another node" for pair in torn),
        *(
            f"{node} has {percent(share)} of the nodes' median bandwidth to its peers: check its interface "
            "(`ip -s link`, `ibstat`), and leave it out until it is as fast as the others"
            for node, share in slow.items()
        ),
    ]


def _about_training(train: Train | None, targets: Sequence[Target]) -> list[str]:
    verdicts = {target.name: target.verdict for target in targets}
    missed = [name for name in SCALING_NAMES.values() if verdicts[name] == "fail"]
    said = []
    if missed and verdicts["share of the link rate"] == "fail":
        said.append(f"{' and '.join(missed)} and the bandwidth both missed their targets: begin with the network")
    elif missed and verdicts["share of the link rate"] == "pass":
        said.append(
            f"{' and '.join(missed)} missed the target although the links reach theirs: give each worker more rows"
        )
    elif missed:
        said.append(f"{' and '.join(missed)} missed the target: measure the collectives against collectives.link_rate=")
    if train and train.largest_micro_batch:
        rows = train.largest_micro_batch
        said.append(f"a GPU holds {rows} rows of {train.length} tokens at once: make micro-batches of that size")
    return said


def _about_serving(ways: Sequence[Serving]) -> list[str]:
    return [f"{way.failed} of {way.requests} requests failed through {way.way}" for way in ways if way.failed]


def by_gpu(readings: Iterable[GpuReading]) -> Mapping[tuple[str, str], list[GpuReading]]:
    """Readings by node and GPU."""
    found: defaultdict[tuple[str, str], list[GpuReading]] = defaultdict(list)
    for reading in readings:
        found[reading.node, reading.index].append(reading)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], len(item[0][1]), item[0][1])))


def percent(share: float) -> str:
    return f"{share * 100:.1f} %"
