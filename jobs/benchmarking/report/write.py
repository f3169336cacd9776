"""The report on a results folder: report.md, report.html and summary.json, from its files alone. Needs no Ray."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from jobs.benchmarking.report import findings
from jobs.benchmarking.report.findings import Target, percent
from jobs.benchmarking.report.reading import Results, read_results
from jobs.benchmarking.report.sections import about_collectives, about_compute, about_gpu_use, figure, scaling_plot
from jobs.benchmarking.results import Serving, Train, Training
from jobs.pages.page import Block, Items, Section, Table, Text, to_html, to_markdown
from orchestrator.files import write_atomic

TITLE = "Cluster benchmark"
NOT_MEASURED = "not measured"


def write_report(folder: Path) -> tuple[Results, list[Target]]:
    """Write the three files; what they were made of. Raises StorageFailed."""
    results = read_results(folder)
    judged = findings.targets(results)
    sections = _sections(results, judged)
    write_atomic(folder / "report.md", to_markdown(TITLE, sections))
    write_atomic(folder / "report.html", to_html(TITLE, sections))
    summary = orjson.dumps(summarise(results, judged), option=orjson.OPT_INDENT_2).decode()
    write_atomic(folder / "summary.json", summary + "\n")
    return results, judged


def summarise(results: Results, judged: list[Target]) -> dict[str, Any]:
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
        "targets": [asdict(target) | {"verdict": target.verdict} for target in judged],
        "outliers": [asdict(one) for one in findings.outliers(results.compute.devices)] if results.compute else None,
        "peak_bus_bandwidth": _peaks(results),
        "slow_nodes": findings.slow_nodes(results.collectives.pairs) if results.collectives else None,
        "training": [_run(run, train.runs) for run in train.runs] if train else None,
        "serving": _ways(serve.ways) if serve else None,
        "gpu_use": findings.mean_use(results.gpus),
        "recommendations": findings.recommendations(results),
        "problems": results.problems + [f"{part}: {w.problem}" for part, w in results.windows.items() if w.problem],
    }


def _peaks(results: Results) -> dict[str, Any] | None:
    if results.collectives is None:
        return None
    found = findings.peaks(results.collectives.transfers)
    return {name: peak.model_dump(include={"size", "ranks", "bus_bandwidth"}) for name, peak in found.items()}


def _run(run: Training, runs: list[Training]) -> dict[str, Any]:
    base = findings.smallest(runs)
    return run.model_dump() | {"scaling_efficiency": findings.efficiency(run, base) if base else None}


def _ways(ways: list[Serving]) -> list[dict[str, Any]]:
    ratios = findings.serving_ratios(ways)
    return [way.model_dump() | {"ratio_to_engine": ratio} for way, ratio in zip(ways, ratios, strict=True)]


def _sections(results: Results, judged: list[Target]) -> list[Section]:
    return [
        Section("Summary", _summary(results, judged)),
        Section("Environment", _environment(results)),
        Section("Compute", _part(results, "compute", about_compute(results.compute))),
        Section("Collectives", _part(results, "collectives", about_collectives(results.collectives))),
        Section("Training", _part(results, "train", _training(results.train) if results.train else [])),
        Section("Serving", _part(results, "serve", _serving(results.serve.ways) if results.serve else [])),
        Section("GPU use", about_gpu_use(results)),
        Section("Recommendations", _recommendations(results)),
    ]


def _part(results: Results, part: str, blocks: list[Block]) -> list[Block]:
    """A part's blocks, or that there are none, and why it ended early where it did."""
    window = results.windows.get(part)
    ended = [Text(f"It ended without all of its figures: {window.problem}")] if window and window.problem else []
    return (blocks or [Text("Not measured.")]) + ended


def _summary(results: Results, judged: list[Target]) -> list[Block]:
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


def _environment(results: Results) -> list[Block]:
    environment = results.environment
    if environment is None:
        return [Text("Not recorded.")]
    nodes = [(n.name, n.gpu or "", str(n.gpus), str(n.cpus), figure(n.memory / 2**30)) for n in environment.nodes]
    blocks: list[Block] = [
        Text(f"Begun at {environment.started_at}, on {'GPUs' if environment.device == 'cuda' else 'CPUs'}."),
        Table(("node", "GPU", "GPUs", "CPUs", "memory, GiB"), nodes),
        Table(("package", "version"), list(environment.versions.items()), numeric=False),
    ]
    if results.spec and results.spec.nccl:
        blocks.append(Text(f"NCCL's settings are those of the profile {results.spec.nccl}."))
    if environment.settings:
        blocks.append(Table(("variable", "value"), list(environment.settings.items()), numeric=False))
    return blocks


def _training(train: Train) -> list[Block]:
    base = findings.smallest(train.runs)
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
            _share(findings.efficiency(run, base) if base else None),
        )
        for run in train.runs
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
    return blocks + scaling_plot(train.runs)


def _serving(ways: list[Serving]) -> list[Block]:
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
        for way, ratio in zip(ways, findings.serving_ratios(ways), strict=True)
    ]
    said = "The last column is output tokens/s a replica, over those of the engine alone in the same run."
    return [Table((*columns, "of the engine"), rows), Text(said)]


def _recommendations(results: Results) -> list[Block]:
    found = findings.recommendations(results)
    if found:
        return [Items(found)]
    return [Text("Nothing that was measured asks for a change." if results.measured else "None without measurements.")]


def _share(share: float | None) -> str:
    return NOT_MEASURED if share is None else percent(share)
