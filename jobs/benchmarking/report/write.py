"""Writes the report on a results folder: report.md, report.html and summary.json, from its files alone, without Ray."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from jobs.benchmarking.report.findings import Findings, Target, find, percent
from jobs.benchmarking.report.reading import BenchResults, read_results
from jobs.benchmarking.report.sections import about_collectives, about_compute, about_gpu_use, figure, scaling_plot
from jobs.benchmarking.results import Serving, Train
from jobs.pages.page import Block, Items, Section, Table, Text, to_html, to_markdown
from orchestrator.files import write_atomic
from orchestrator.spec import SpecModel

TITLE = "Cluster benchmark"
NOT_MEASURED = "not measured"


def write_report(folder: Path) -> tuple[BenchResults, list[Target]]:
    """Write the three files; what they were made of. Raises StorageFailed."""
    results = read_results(folder)
    found = find(results)
    sections = _sections(results, found)
    write_atomic(folder / "report.md", to_markdown(TITLE, sections))
    write_atomic(folder / "report.html", to_html(TITLE, sections))
    summary = orjson.dumps(summarise(results, found), option=orjson.OPT_INDENT_2).decode()
    write_atomic(folder / "summary.json", summary + "\n")
    return results, found.targets


def summarise(results: BenchResults, found: Findings) -> dict[str, Any]:
    """The seed's seven keys of metadata, then the findings. None is what was not measured."""
    environment, train, serve = results.environment, results.train, results.serve
    nodes = environment.nodes if environment else None
    return {
        "timestamp": environment.started_at if environment else None,
        "model": train.model if train else serve.model if serve else None,
        "nodes": len(nodes) if nodes is not None else None,
        "gpus": sum(node.gpus for node in nodes) if nodes is not None else None,
        "test_type": "+".join(results.measured) or None,
        "selected_nodes": [node.name for node in nodes] if nodes is not None else None,
        "output_dir": str(results.folder),
        "targets": [asdict(target) | {"verdict": target.verdict} for target in found.targets],
        "outliers": [asdict(one) for one in found.outliers] if results.compute else None,
        "peak_bus_bandwidth": _peaks(found) if results.collectives else None,
        "slow_nodes": found.slow_nodes if results.collectives else None,
        "training": _with(train.runs, "scaling_efficiency", found.efficiencies) if train else None,
        "serving": _with(serve.ways, "ratio_to_engine", found.serving_ratios) if serve else None,
        "gpu_use": found.gpu_use,
        "recommendations": found.recommendations,
        "problems": results.problems + [f"{part}: {w.problem}" for part, w in results.windows.items() if w.problem],
    }


def _peaks(found: Findings) -> dict[str, Any]:
    return {name: peak.model_dump(include={"size", "ranks", "bus_bandwidth"}) for name, peak in found.peaks.items()}


def _with(measured: Sequence[SpecModel], name: str, figures: Sequence[float | None]) -> list[dict[str, Any]]:
    """Each with a figure that follows from it, under `name`."""
    return [one.model_dump() | {name: value} for one, value in zip(measured, figures, strict=True)]


def _sections(results: BenchResults, found: Findings) -> list[Section]:
    train, serve = results.train, results.serve
    training = _training(train, found.efficiencies) if train else []
    serving = _serving(serve.ways, found.serving_ratios) if serve else []
    return [
        Section("Summary", _summary(results, found.targets)),
        Section("Environment", _environment(results)),
        Section("Compute", _part(results, "compute", about_compute(results.compute, found))),
        Section("Collectives", _part(results, "collectives", about_collectives(results.collectives, found))),
        Section("Training", _part(results, "train", training)),
        Section("Serving", _part(results, "serve", serving)),
        Section("GPU use", about_gpu_use(results, found)),
        Section("Recommendations", _recommendations(results, found.recommendations)),
    ]


def _part(results: BenchResults, part: str, blocks: list[Block]) -> list[Block]:
    """A part's blocks, or that there are none, and why it ended early where it did."""
    window = results.windows.get(part)
    ended = [Text(f"It ended without all of its figures: {window.problem}")] if window and window.problem else []
    return (blocks or [Text("Not measured.")]) + ended


def _summary(results: BenchResults, judged: list[Target]) -> list[Block]:
    measured = f"Measured: {', '.join(results.measured)}." if results.measured else "Nothing was measured."
    blocks: list[Block] = [
        Text(measured),
        Table(("target", "verdict", "measured", "wanted"), [_target(t) for t in judged]),
    ]
    missing = [f"{target.name}: needs {target.missing}" for target in judged if target.measured is None]
    blocks += [Text("What the others need:"), Items(missing)] if missing else []
    return blocks + ([Text("Files that could not be read:"), Items(results.problems)] if results.problems else [])


def _target(target: Target) -> tuple[str, ...]:
    if target.measured is None:
        return target.name, target.verdict, "", ""
    return target.name, target.verdict, percent(target.measured), f"at least {target.wanted * 100:.0f} %"


def _environment(results: BenchResults) -> list[Block]:
    environment = results.environment
    if environment is None:
        return [Text("Not recorded.")]
    nodes = [(n.name, n.gpu or "", str(n.gpus), str(n.cpus), figure(n.memory / 2**30)) for n in environment.nodes]
    blocks: list[Block] = [
        Text(f"Started at {environment.started_at}, on {'GPUs' if environment.device == 'cuda' else 'CPUs'}."),
        Table(("node", "GPU", "GPUs", "CPUs", "memory, GiB"), nodes),
        Table(("package", "version"), list(environment.versions.items()), numeric=False),
    ]
    if results.spec and results.spec.nccl:
        blocks.append(Text(f"NCCL's settings are those of the profile {results.spec.nccl}."))
    if environment.settings:
        blocks.append(Table(("variable", "value"), list(environment.settings.items()), numeric=False))
    return blocks


def _training(train: Train, efficiencies: list[float | None]) -> list[Block]:
    columns = ("workers", "nodes", "rows a worker", "s a step", "tokens/s", "tokens/s a worker", "MFU", "GiB a GPU")
    rows = [
        (
            str(run.workers),
            str(run.nodes),
            str(run.rows_per_worker),
            figure(run.seconds),
            figure(run.tokens_per_second),
            figure(run.tokens_per_second / run.workers),
            _share(run.mfu),
            NOT_MEASURED if run.memory is None else figure(run.memory / 2**30),
            _share(efficiency),
        )
        for run, efficiency in zip(train.runs, efficiencies, strict=True)
    ]
    blocks: list[Block] = [
        Text(
            f"{train.model}, {figure(train.parameters / 1e9)} billion parameters, trained "
            f"{'by LoRA' if train.lora else 'in full'} on {train.data or 'made rows'} of {train.length} tokens."
        ),
        Table((*columns, "scaling efficiency"), rows),
        Text(
            "Scaling efficiency is weak scaling: tokens/s a worker over those of the fewest workers, where each worker "
            "has equally many rows. MFU is the share of the devices' peak that the model's own arithmetic takes."
        ),
    ]
    if train.largest_micro_batch is not None:
        blocks.append(Text(f"Rows at once that fit one GPU: {train.largest_micro_batch}."))
    return blocks + scaling_plot(train.runs, efficiencies)


def _serving(ways: list[Serving], ratios: list[float | None]) -> list[Block]:
    columns = ("way", "replicas", "in flight", "requests", "failed", "s", "output tokens/s", "client's CPU, s")
    rows = [
        (
            way.way,
            str(way.replicas),
            "all" if way.in_flight is None else str(way.in_flight),
            str(way.requests),
            str(way.failed),
            figure(way.seconds),
            figure(way.output_tokens / way.seconds),
            NOT_MEASURED if way.client_cpu is None else figure(way.client_cpu),
            _share(ratio),
        )
        for way, ratio in zip(ways, ratios, strict=True)
    ]
    said = "The last column is output tokens/s a replica, over those of the engine alone in the same run."
    return [Table((*columns, "of the engine"), rows), Text(said)]


def _recommendations(results: BenchResults, recommendations: list[str]) -> list[Block]:
    if recommendations:
        return [Items(recommendations)]
    return [Text("No measurement calls for a change." if results.measured else "None without measurements.")]


def _share(share: float | None) -> str:
    return NOT_MEASURED if share is None else percent(share)
