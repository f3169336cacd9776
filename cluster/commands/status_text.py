"""A cluster's status as text for people, and as JSON for programs."""

import dataclasses
import io
import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cluster.commands.status import (
    UNMEASURED,
    ApplicationStatus,
    DeploymentStatus,
    GpuStatus,
    JobStatus,
    Status,
    alive_nodes,
)
from cluster.profile import THIS_MACHINE
from cluster.schedulers.base import DEFAULT, Job, scheduler_of
from cluster.streams import visible_lines

JOBS_SHOWN = 8  # jobs, the newest, on screen; --json has all that Ray keeps


def as_json(status: Status) -> str:
    """The status as JSON. Keys that hold a scheduler's words have its name: once there was the default alone, and a
    cluster of this machine has those, with null."""
    name = DEFAULT if status.scheduler == THIS_MACHINE else status.scheduler
    values = dataclasses.asdict(status)
    jobs, advice = values.pop("batch_jobs"), values.pop("advice")
    for node in values["nodes"]:
        node[name] = node.pop("scheduler")
    shown = ("id", "state", "reason", "nodes")
    values[f"{name}_jobs"] = (
        None
        if status.batch_jobs is None
        else [
            {key: job[key] for key in shown} | {"time_left": one.time_left}
            for job, one in zip(jobs, status.batch_jobs, strict=True)
        ]
    )
    return json.dumps(values | {"advice": advice}, indent=2)


def render(status: Status) -> str:
    """The status as text of any width, without colours; made for people, --json is for programs."""
    parts = [_headline(status), *([f"problem: {status.problem}"] if status.problem else [])]
    title = None if status.scheduler == THIS_MACHINE else scheduler_of(status.scheduler).title
    parts += [f"{title} job {_job_line(job)}" for job in status.batch_jobs or []]
    if title and status.batch_jobs is None:
        parts.append(f"{title}: {UNMEASURED}")
    parts += [_nodes_table(status, title)] if status.nodes else []
    if status.answers:
        parts += [_applications_text(status.applications), _jobs_text(status.jobs)]
    return "\n".join([*parts, *status.advice])


def _headline(status: Status) -> str:
    start = f"cluster {status.name!r}"
    count = f"{alive_nodes(status.nodes)} of {status.expected_nodes} nodes"
    if status.verdict == "ready":
        return f"{start} is ready: {count}, {status.ray_address}, dashboard {status.dashboard_url}"
    if status.verdict == "degraded":
        lost = [f"{node.name} ({node.ray})" for node in status.nodes if node.expected and node.ray != "alive"]
        names = f", without {', '.join(lost)}" if lost else ""
        return f"{start} is DEGRADED: {count}{names}, {status.ray_address}, dashboard {status.dashboard_url}"
    word = {"gone": "is GONE", "not answering": "does NOT ANSWER", "failed": "has FAILED"}
    return f"{start} {word.get(status.verdict, f'is {status.verdict}')}"


def _job_line(job: Job) -> str:
    reason = f" ({job.reason})" if job.reason not in ("", "None") else ""
    left = f", time left {job.time_left or 'unlimited'}" if job.running else ""
    return f"{job.id}: {job.state}{reason}{left}"


def _nodes_table(status: Status, title: str | None) -> str:
    gpus = any(node.gpus or node.gpu_use for node in status.nodes)
    head = ["node", "address", "Ray", *([title] if title else []), "CPUs", "GPUs", "CPU use", "memory, GiB"]
    rows = [
        [
            node.name if node.expected else f"{node.name} (not in the state file)",
            node.ip or UNMEASURED,
            node.ray or UNMEASURED,
            *([node.scheduler or UNMEASURED] if title else []),
            _number(node.cpus),
            _number(node.gpus),
            _number(node.cpu_percent, " %"),
            f"{_gib(node.memory_used_mib)} of {_gib(node.memory_total_mib)}" if node.memory_total_mib else UNMEASURED,
            *(_gpu_cells(node.gpu_use) if gpus else []),
        ]
        for node in status.nodes
    ]
    return _table([*head, *(["GPU use, %", "GPU memory, GiB"] if gpus else [])], rows)


def _number(value: float | None, unit: str = "") -> str:
    return UNMEASURED if value is None else f"{value:.0f}{unit}"


def _gib(mib: float | None) -> str:
    return "?" if mib is None else f"{mib / 1024:.1f}"


def _gpu_cells(gpus: Sequence[GpuStatus] | None) -> list[str]:
    """Use and memory of a node's GPUs, in the order of their numbers."""
    if not gpus:
        return [UNMEASURED if gpus is None else ""] * 2
    percents = ["?" if gpu.utilization_percent is None else f"{gpu.utilization_percent:.0f}" for gpu in gpus]
    used = [_gib(gpu.memory_used_mib) for gpu in gpus]
    totals = sorted({_gib(gpu.memory_total_mib) for gpu in gpus})
    return [" ".join(percents), f"{' '.join(used)} of {' '.join(totals)}"]


def _applications_text(applications: Sequence[ApplicationStatus] | None) -> str:
    if not applications:
        return f"Serve: {UNMEASURED if applications is None else 'no applications'}"
    rows = [
        [application.name, application.status, one.name, one.status, f"{one.running} of {_number(one.target)}"]
        for application in applications
        for one in application.deployments or [DeploymentStatus("", "", 0, None)]
    ]
    return _table(["Serve application", "status", "deployment", "status", "replicas"], rows)


def _jobs_text(jobs: Sequence[JobStatus] | None) -> str:
    if not jobs:
        return f"Ray jobs: {UNMEASURED if jobs is None else 'none'}"
    table = _table(
        ["Ray job", "status", "entrypoint"], [[job.id, job.status, job.entrypoint] for job in jobs[:JOBS_SHOWN]]
    )
    return table + (f"\n… and {len(jobs) - JOBS_SHOWN} older jobs" if len(jobs) > JOBS_SHOWN else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = Table(*head, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for row in rows:
        table.add_row(*map(visible_lines, row))
    output = io.StringIO()  # users' texts hold brackets, which are not markup, and lines must not wrap in a pipe
    Console(file=output, width=400, markup=False, highlight=False, emoji=False, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
