"""Runs a benchmark: its parts one after the other while the nodes are recorded, those measured already left out."""

import importlib
import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cluster.streams import print_json
from jobs.benchmarking.report.reading import BenchResults, read_windows
from jobs.benchmarking.report.write import write_report
from jobs.benchmarking.results import Collectives, Compute, Environment, PartResult, Serve, Train
from jobs.benchmarking.spec import BenchSpec, Part
from orchestrator.console import logged, say
from orchestrator.errors import COMPLETE, INCOMPLETE, KosenError, SpecError
from orchestrator.events import Events
from orchestrator.files import write_atomic
from orchestrator.ray_cluster.find import run_root
from orchestrator.records.lock import Owner, RunLock
from orchestrator.spec import load_spec, to_yaml

if TYPE_CHECKING:
    from orchestrator.ray_cluster.connect import Cluster


class PartInfo(NamedTuple):
    module: str  # has measure(spec, folder, cluster)
    result: type[PartResult]
    purpose: str


PARTS: dict[Part, PartInfo] = {  # in the order in which they run
    "compute": PartInfo("compute", Compute, "matrix product, memory and host copies of every device"),
    "collectives": PartInfo("collectives", Collectives, "all devices together, then the nodes two by two"),
    "train": PartInfo("training", Train, "SFT steps at growing numbers of workers, up to all devices"),
    "serve": PartInfo("serving", Serve, "the engine alone, `vllm serve` with a usual client, ours on growing replicas"),
}


def bench(spec: BenchSpec, *, as_json: bool = False) -> int:
    """Measure the spec's parts and write the report; the exit code. Interrupted, it reports what there is."""
    from orchestrator.ray_cluster.connect import connect  # Ray, which a wrong spec need not wait for

    name = spec.run or f"bench_{time.strftime('%Y%m%d_%H%M%S')}"
    with connect() as cluster:
        folder = cluster.run_folder(name)
        settled = spec.model_copy(update={"run": name, "device": spec.settle_device(cluster.gpus)})
        lock = RunLock(folder, Owner(socket.gethostname(), os.getpid()), mode=cluster.run_mode)
        try:
            with logged(folder / "benchmark.log"):
                _prepare(settled, folder)
                say(f"{folder}: if this is interrupted, run={name} resumes it")
                try:
                    missing = _measure_all(settled, folder, cluster)
                finally:
                    report(folder, as_json=as_json)
        finally:
            lock.release()
    return INCOMPLETE if missing else COMPLETE


def _measure_all(spec: BenchSpec, folder: Path, cluster: "Cluster") -> list[Part]:
    """Run the parts that are not measured yet, all nodes recorded meanwhile; the parts that failed."""
    from jobs.benchmarking.parts.recorder import recording

    events, failed = Events(folder), list[Part]()
    with recording(folder):
        for part in (part for part in PARTS if part in spec.parts):
            if _is_measured(part, folder):
                say(f"{part}: measured already in {folder / PARTS[part].result.file}")
            elif not _measure(part, spec, folder, cluster, events):
                failed.append(part)
    return failed


def _measure(part: Part, spec: BenchSpec, folder: Path, cluster: "Cluster", events: Events) -> bool:
    """Run one part; whether it got to its end. What it had measured before it failed is kept."""
    from ray.exceptions import RayError

    started = time.monotonic()
    say(f"{part}: {PARTS[part].purpose}")
    events.add("part_started", part=part)
    try:
        importlib.import_module(f"jobs.benchmarking.parts.{PARTS[part].module}").measure(spec, folder, cluster)
    except KosenError as error:
        problem = error
    except RayError as error:
        from orchestrator.errors import cause_of  # takes seconds, with Ray Data

        problem = cause_of(error)
    else:
        events.add("part_measured", part=part, seconds=round(time.monotonic() - started, 1))
        return True
    say(f"{part}: failed: {problem}")
    events.add("part_failed", part=part, error=str(problem))
    return False


def _is_measured(part: Part, folder: Path) -> bool:
    """Whether the part's file is there, whole, and the part did not end early when it wrote it."""
    try:
        result = PARTS[part].result.read(folder)
    except SpecError as error:
        say(f"{part}: {error}: measuring it again")
        return False
    window = read_windows(folder).get(part)
    return result is not None and (window is None or (window.end is not None and window.problem is None))


def _prepare(spec: BenchSpec, folder: Path) -> None:
    """Write down what is measured and where. One folder has one benchmark, whose figures can be compared."""
    from jobs.benchmarking.parts.environment import describe

    if (folder / "spec.yaml").exists():
        _check_same(load_spec(BenchSpec, folder / "spec.yaml", []), spec, folder)
    here, before = describe("cuda" if spec.device == "cuda" else "cpu"), Environment.read(folder)
    if before and (before.nodes, before.versions) != (here.nodes, here.versions):
        raise SpecError(
            f"{folder} holds a benchmark of other nodes or versions, see {Environment.file}. Give another run="
        )
    write_atomic(folder / "spec.yaml", to_yaml(spec))
    (before or here).write(folder)


def _check_same(before: BenchSpec, now: BenchSpec, folder: Path) -> None:
    """Which parts are wanted, and what the links should give, may change: neither decides a figure."""
    old, new = (
        spec.model_dump(exclude={"run": True, "parts": True, "collectives": {"link_rate"}}) for spec in (before, now)
    )
    for key, value in new.items():
        if old[key] != value:
            raise SpecError(
                f"{folder} holds a benchmark with other settings: {key} was {old[key]}, now it is {value}. "
                "Give another run="
            )


def describe(spec: BenchSpec) -> str:
    """What `--dry-run` prints: the resolved spec, and what would be measured where."""
    from orchestrator.training.config.placement import known_nodes

    nodes = known_nodes()
    device = spec.settle_device(sum(node.gpus for node in nodes)) if nodes else spec.device
    folder = run_root() / (spec.run or "bench_<time>")
    where = [f"{node.name}: {node.gpus} GPUs, {node.cpus:g} CPUs" for node in nodes or []]
    lines = [f"run:     {folder}", f"device:  {device}", *(f"node:    {line}" for line in where)]
    if not where:
        lines.append("node:    no cluster of ours runs: a local one would be started for the job")
    for part in (part for part in PARTS if part in spec.parts):
        done = " (measured already)" if _is_measured(part, folder) else ""
        lines.append(f"{part + ':':<12} {PARTS[part].purpose}{done}")
    return "\n".join([to_yaml(spec).rstrip(), "---", *lines])


def report(folder: Path, *, as_json: bool) -> BenchResults:
    """Write the report, say what could not be read, and print the targets or the summary."""
    results, targets = write_report(folder)
    for problem in results.problems:
        say(f"warning: {problem}")
    if as_json:
        print_json(json.loads((folder / "summary.json").read_bytes()))
    else:
        for target in targets:
            print(target.sentence())
        print(f"report: {folder / 'report.html'}")
    return results
