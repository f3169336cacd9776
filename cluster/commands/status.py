"""How a cluster is now: what Ray says about it, what Slurm says, and the next command where something is wrong."""

import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from cluster import dashboard as api
from cluster.errors import ClusterError
from cluster.schedulers import slurm
from cluster.state import ClusterState, helpers, token_path
from cluster.streams import visible_lines

HTTP_TIMEOUT = 3.0  # seconds a request; Serve's first answer of a cluster took 1.7 on two cores
DEADLINE = 4.5  # seconds for everything together; what has not answered by then is "not measured"
ENTRYPOINT_LENGTH = 70  # characters of a job's command
JOBS_SHOWN = 8  # the newest, on screen; --json has all that Ray keeps
UNMEASURED = "not measured"

Verdict = Literal["queued", "starting", "ready", "degraded", "stopping", "failed", "gone", "not answering"]


@dataclass(frozen=True, slots=True)
class GpuStatus:
    index: int
    utilization_percent: float | None
    memory_used_mib: float | None
    memory_total_mib: float | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node in both views. Its figures are up to 7 s old: reported every 5 s, cached for 2 s."""

    name: str
    ip: str | None
    expected: bool  # False: in Ray, but not in the state file
    ray: Literal["alive", "dead", "missing"] | None  # None: Ray does not answer
    slurm: str | None  # sinfo's word for it; None without Slurm, or where it does not answer
    cpus: float | None = None  # logical, as Ray schedules them
    gpus: float | None = None
    cpu_percent: float | None = None
    memory_used_mib: float | None = None
    memory_total_mib: float | None = None
    gpu_use: list[GpuStatus] | None = None


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    name: str
    status: str
    running: int
    target: int | None  # replicas


@dataclass(frozen=True, slots=True)
class ApplicationStatus:
    name: str
    status: str
    deployments: list[DeploymentStatus]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A Ray job. What else Ray knows about it is left out: its runtime environment may hold secrets."""

    id: str
    status: str
    entrypoint: str


@dataclass(frozen=True, slots=True)
class Status:
    """A cluster at one moment; None is what could not be read."""

    name: str
    verdict: Verdict
    phase: str  # as the state file has it
    problem: str | None
    scheduler: str
    ray_address: str
    dashboard_url: str
    answers: bool  # whether the dashboard did
    expected_nodes: int
    nodes: list[NodeStatus]
    applications: list[ApplicationStatus] | None
    jobs: list[JobStatus] | None
    slurm_jobs: list[slurm.Job] | None  # the cluster's own job first, then the helpers of --heal
    advice: list[str]  # sentences with the next command


@dataclass(frozen=True, slots=True)
class _SlurmView:
    jobs: list[slurm.Job]
    nodes: Mapping[str, str]
    problem: str | None = None


def gather(state: ClusterState) -> Status:
    """Ask Ray and Slurm at the same time; takes at most DEADLINE, whoever does not answer."""
    paths = ("/nodes?view=summary", "/api/serve/applications/", "/api/jobs/") if state.dashboard_url else ()
    token = token_path(state.name)
    calls: dict[str, Callable[[], Any]] = {
        path: partial(api.get_json, state.dashboard_url + path, token, timeout=HTTP_TIMEOUT) for path in paths
    }
    if state.scheduler == "slurm" and state.job_id:
        calls["slurm"] = partial(_slurm_view, state)
    seen = _in_time(calls, DEADLINE)
    silent = _SlurmView([], {}, f"Slurm does not answer within {DEADLINE} s. Try `scontrol ping`")
    view: _SlurmView | None = seen.get("slurm", silent) if "slurm" in calls else None
    ray = _ray_nodes(seen.get("/nodes?view=summary"))
    nodes = _nodes(state, ray, view)
    verdict = _verdict(state, ray is not None, nodes, view)
    return Status(
        name=state.name,
        verdict=verdict,
        phase=state.phase,
        problem=state.problem,
        scheduler=state.scheduler,
        ray_address=state.ray_address,
        dashboard_url=state.dashboard_url,
        answers=ray is not None,
        expected_nodes=state.expected_nodes,
        nodes=nodes,
        applications=_applications(seen.get("/api/serve/applications/")),
        jobs=_jobs(seen.get("/api/jobs/")),
        slurm_jobs=None if view is None or view.problem else view.jobs,
        advice=_advice(state, verdict, view),
    )


def exit_code(status: Status) -> int:
    """0 for a cluster that takes jobs, with all of its nodes or not; 4 for any other."""
    return 0 if status.verdict in ("ready", "degraded") else 4


def _in_time(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """The results of those calls that end in time. Threads of a pool would hold the interpreter's end; these do not."""
    results = dict[str, Any]()

    def run(name: str, call: Callable[[], Any]) -> None:
        results[name] = call()

    threads = [threading.Thread(target=run, args=call, daemon=True) for call in calls.items()]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(results)


def _slurm_view(state: ClusterState) -> _SlurmView:
    try:
        jobs = [_slurm_job(job_id) for job_id in (str(state.job_id), *helpers(state.name))]
        names = {node["name"] for node in state.nodes} | {name for job in jobs for name in job.nodes}
        return _SlurmView(jobs, slurm.node_states(sorted(names)))
    except ClusterError as error:
        return _SlurmView([], {}, str(error))


def _slurm_job(job_id: str) -> slurm.Job:
    return slurm.job(job_id) or slurm.Job(job_id, "FORGOTTEN", "None", nodes=[], time_left=None)


def _ray_nodes(answer: Any) -> dict[str, dict[str, Any]] | None:
    """Ray's nodes by address. One that came back is listed dead and alive: the living counts, then the newest."""
    if not answer:
        return None
    nodes = answer.get("data", {}).get("summary", [])
    known: list[dict[str, Any]] = [node for node in nodes if node.get("raylet", {}).get("nodeManagerAddress")]
    known.sort(key=lambda node: (_lives(node), int(node["raylet"].get("startTimeMs", 0))))
    return {node["raylet"]["nodeManagerAddress"]: node for node in known}


def _lives(node: Mapping[str, Any]) -> bool:
    return bool(node["raylet"].get("state") == "ALIVE")


def _nodes(state: ClusterState, ray: Mapping[str, dict[str, Any]] | None, view: _SlurmView | None) -> list[NodeStatus]:
    """Expected nodes first: those of the state file, then those that Slurm gave and that have not joined yet."""
    wanted: dict[str, str | None] = {node.get("name") or node["ip"]: node["ip"] for node in state.nodes}
    by_host = {node["raylet"].get("nodeManagerHostname"): ip for ip, node in (ray or {}).items()}
    for name in (name for job in view.jobs for name in job.nodes) if view else ():
        wanted.setdefault(name, by_host.get(name))
    words = view.nodes if view else {}
    nodes = [_node(name, ip, ray, words.get(name)) for name, ip in wanted.items()]
    for ip, node in (ray or {}).items():
        if _lives(node) and ip not in wanted.values():
            name = node["raylet"].get("nodeManagerHostname") or ip
            nodes.append(_node(name, ip, ray, words.get(name), expected=False))
    return nodes


def _node(
    name: str, ip: str | None, ray: Mapping[str, dict[str, Any]] | None, word: str | None, expected: bool = True
) -> NodeStatus:
    if ray is None:
        return NodeStatus(name, ip, expected, None, word)
    node = ray.get(ip or "")
    if node is None or not _lives(node):
        return NodeStatus(name, ip, expected, "dead" if node else "missing", word)
    resources = node["raylet"].get("resourcesTotal")
    memory = node.get("mem") or (None,) * 4  # bytes: total, available, percent, used
    gpus = resources.get("GPU", 0.0) if resources else None
    return NodeStatus(
        name,
        ip,
        expected,
        "alive",
        word,
        cpus=resources.get("CPU", 0.0) if resources else None,
        gpus=gpus,
        cpu_percent=node.get("cpu"),
        memory_used_mib=_mib(memory[3]),
        memory_total_mib=_mib(memory[0]),
        gpu_use=_gpu_use(node.get("gpus"), gpus),
    )


def _gpu_use(reported: Sequence[Mapping[str, Any]] | None, gpus: float | None) -> list[GpuStatus] | None:
    if not reported:
        return [] if reported is not None and gpus == 0 else None  # has GPUs, and the agent cannot see them
    return [
        GpuStatus(int(gpu["index"]), gpu.get("utilizationGpu"), gpu.get("memoryUsed"), gpu.get("memoryTotal"))
        for gpu in reported
    ]


def _mib(size: float | None) -> float | None:
    return None if size is None else round(size / 1024**2, 1)


def _applications(answer: Any) -> list[ApplicationStatus] | None:
    if not isinstance(answer, dict):
        return None
    return [
        ApplicationStatus(name, one.get("status", UNMEASURED), list(map(_deployment, one["deployments"].values())))
        for name, one in sorted(answer.get("applications", {}).items())
    ]


def _deployment(one: Mapping[str, Any]) -> DeploymentStatus:
    running = sum(replica.get("state") == "RUNNING" for replica in one.get("replicas", []))
    return DeploymentStatus(one["name"], one["status"], running, one.get("target_num_replicas"))


def _jobs(answer: Any) -> list[JobStatus] | None:
    """Newest first."""
    if not isinstance(answer, list):
        return None
    newest = sorted(answer, key=lambda job: job.get("start_time") or 0, reverse=True)
    return [
        JobStatus(job.get("submission_id") or job.get("job_id") or "", job["status"], _short(job["entrypoint"]))
        for job in newest
    ]


def _short(entrypoint: str) -> str:
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in entrypoint).split())
    return line if len(line) <= ENTRYPOINT_LENGTH else line[: ENTRYPOINT_LENGTH - 1] + "…"


def _verdict(state: ClusterState, answers: bool, nodes: Sequence[NodeStatus], view: _SlurmView | None) -> Verdict:
    if state.phase in ("stopping", "failed"):
        return state.phase
    if view and not view.problem and (view.jobs[0].ended or view.jobs[0].state == "FORGOTTEN"):
        return "gone"
    if state.phase in ("queued", "starting"):
        return state.phase
    if not answers:
        return "not answering"
    return "ready" if _alive(nodes) >= state.expected_nodes else "degraded"  # a replacement makes up for a lost node


def _alive(nodes: Sequence[NodeStatus]) -> int:
    return sum(node.ray == "alive" for node in nodes if node.expected)


def _advice(state: ClusterState, verdict: Verdict, view: _SlurmView | None) -> list[str]:
    name = state.name
    again = (
        f"`make cluster-down NAME={name}` cleans up, "
        f"`make cluster-up SITE={state.site} NAME={name} NODES={state.expected_nodes}` starts it again"
    )
    lines = [view.problem] if view and view.problem else []
    if verdict == "gone" and view:
        job = f"Slurm's job {state.job_id} is gone ({view.jobs[0].state})"
        lines.append(f"{job}, although the state file says {state.phase}. {again}")
    if verdict == "not answering":
        lines.append(f"nothing answers at {state.dashboard_url} to this cluster's token. {again}")
    if verdict == "failed":
        lines.append(again)
    if verdict == "degraded" and state.scheduler == "slurm":
        lines.append(f"`python -m cluster up --name {name} --heal` asks Slurm for a replacement of what is lost")
    return lines


def render(status: Status) -> str:
    """The status as text of any width, without colours; made for people, --json is for programs."""
    parts = [_headline(status), *([f"problem: {status.problem}"] if status.problem else [])]
    parts += [_slurm_line(job) for job in status.slurm_jobs or []]
    if status.scheduler == "slurm" and status.slurm_jobs is None:
        parts.append(f"Slurm: {UNMEASURED}")
    parts += [_nodes_table(status)] if status.nodes else []
    if status.answers:
        parts += [_applications_text(status.applications), _jobs_text(status.jobs)]
    return "\n".join([*parts, *status.advice])


def _headline(status: Status) -> str:
    start = f"cluster {status.name!r}"
    count = f"{_alive(status.nodes)} of {status.expected_nodes} nodes"
    if status.verdict == "ready":
        return f"{start} is ready: {count}, {status.ray_address}, dashboard {status.dashboard_url}"
    if status.verdict == "degraded":
        lost = [f"{node.name} ({node.ray})" for node in status.nodes if node.expected and node.ray != "alive"]
        names = f", without {', '.join(lost)}" if lost else ""
        return f"{start} is DEGRADED: {count}{names}, {status.ray_address}, dashboard {status.dashboard_url}"
    word = {"gone": "is GONE", "not answering": "does NOT ANSWER", "failed": "has FAILED"}
    return f"{start} {word.get(status.verdict, f'is {status.verdict}')}"


def _slurm_line(job: slurm.Job) -> str:
    reason = f" ({job.reason})" if job.reason not in ("", "None") else ""
    left = f", time left {job.time_left or 'unlimited'}" if job.state == "RUNNING" else ""
    return f"Slurm job {job.id}: {job.state}{reason}{left}"


def _nodes_table(status: Status) -> str:
    gpus = any(node.gpus or node.gpu_use for node in status.nodes)
    on_slurm = status.scheduler == "slurm"
    head = ["node", "address", "Ray", *(["Slurm"] if on_slurm else []), "CPUs", "GPUs", "CPU use", "memory, GiB"]
    rows = [
        [
            node.name if node.expected else f"{node.name} (not in the state file)",
            node.ip or UNMEASURED,
            node.ray or UNMEASURED,
            *([node.slurm or UNMEASURED] if on_slurm else []),
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
    output = io.StringIO()  # users' texts hold brackets, which are no markup, and lines must not wrap in a pipe
    Console(file=output, width=400, markup=False, highlight=False, emoji=False, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())
