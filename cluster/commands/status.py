"""How a cluster is now: what Ray and its scheduler say about it, and the next command where something is wrong."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cluster.dashboard import NODES, get_json, node_summaries
from cluster.errors import ClusterError
from cluster.folder.cluster_folder import ClusterFolder
from cluster.profile import THIS_MACHINE
from cluster.schedulers.base import Job, NodeState, Scheduler, scheduler_of
from cluster.state import UP, ClusterState, token_path

HTTP_TIMEOUT = 3.0  # seconds a request; Serve's first answer of a cluster took 1.7 on two cores
DEADLINE = 4.5  # seconds for everything together; what has not answered by then is "not measured"
ENTRYPOINT_LENGTH = 70  # characters of a job's command
UNMEASURED = "not measured"
FORGOTTEN = "FORGOTTEN"  # our word for the state of a job that its scheduler does not know any more

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
    scheduler: str | None  # its scheduler's word for it; None without one, or where that does not answer
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
    batch_jobs: list[Job] | None  # the cluster's own job first, then the helpers of --heal
    advice: list[str]  # sentences with the next command


@dataclass(frozen=True, slots=True)
class _QueueView:
    jobs: list[Job]
    nodes: Mapping[str, NodeState]
    problem: str | None = None


def gather(state: ClusterState) -> Status:
    """Ask Ray and the scheduler at the same time; takes at most DEADLINE, whoever does not answer."""
    paths = (NODES, "/api/serve/applications/", "/api/jobs/") if state.dashboard_url else ()
    token = token_path(state.name)
    calls: dict[str, Callable[[], Any]] = {
        path: partial(get_json, state.dashboard_url + path, token, timeout=HTTP_TIMEOUT) for path in paths
    }
    view: _QueueView | None = None
    if state.scheduler != THIS_MACHINE and state.job_id:
        scheduler = scheduler_of(state.scheduler)
        calls["queue"] = partial(_queue_view, scheduler, state)
        alive = scheduler.hints.alive
        view = _QueueView([], {}, f"{scheduler.title} does not answer within {DEADLINE} s. Try `{alive}`")
    seen = _in_time(calls, DEADLINE)
    view = seen.get("queue", view)
    ray = _ray_nodes(seen.get(NODES))
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
        batch_jobs=None if view is None or view.problem else view.jobs,
        advice=_advice(state, verdict, view),
    )


def exit_code(status: Status) -> int:
    """0 for a cluster that takes jobs, with all of its nodes or not; 4 for any other."""
    return 0 if status.verdict in UP else 4


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


def _queue_view(scheduler: Scheduler, state: ClusterState) -> _QueueView:
    try:
        ids = (str(state.job_id), *ClusterFolder(state.name).helpers())
        jobs = [scheduler.job(job_id) or Job(job_id, FORGOTTEN) for job_id in ids]
        names = {node.name for node in state.nodes} | {name for job in jobs for name in job.nodes}
        return _QueueView(jobs, scheduler.node_states(sorted(names)))
    except ClusterError as error:
        return _QueueView([], {}, str(error))


def _ray_nodes(answer: Any) -> dict[str, dict[str, Any]] | None:
    """Ray's nodes by address. One that came back is listed dead and alive: the living counts, then the newest."""
    if not answer:
        return None
    known = [node for node in node_summaries(answer) if node.get("raylet", {}).get("nodeManagerAddress")]
    known.sort(key=lambda node: (_lives(node), int(node["raylet"].get("startTimeMs", 0))))
    return {node["raylet"]["nodeManagerAddress"]: node for node in known}


def _lives(node: Mapping[str, Any]) -> bool:
    return bool(node["raylet"].get("state") == "ALIVE")


def _nodes(state: ClusterState, ray: Mapping[str, dict[str, Any]] | None, view: _QueueView | None) -> list[NodeStatus]:
    """Expected nodes first: those of the state file, then those of the scheduler that have not joined yet."""
    wanted: dict[str, str | None] = {node.name or node.ip: node.ip for node in state.nodes}
    by_host = {node["raylet"].get("nodeManagerHostname"): ip for ip, node in (ray or {}).items()}
    for name in (name for job in view.jobs for name in job.nodes) if view else ():
        wanted.setdefault(name, by_host.get(name))
    words = {name: node.word for name, node in view.nodes.items()} if view else {}
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


def _verdict(state: ClusterState, answers: bool, nodes: Sequence[NodeStatus], view: _QueueView | None) -> Verdict:
    if state.phase in ("stopping", "failed"):
        return state.phase
    if view and not view.problem and (view.jobs[0].ended or view.jobs[0].state == FORGOTTEN):
        return "gone"
    if state.phase in ("queued", "starting"):
        return state.phase
    if not answers:
        return "not answering"
    return (
        "ready" if alive_nodes(nodes) >= state.expected_nodes else "degraded"
    )  # a replacement makes up for a lost node


def alive_nodes(nodes: Sequence[NodeStatus]) -> int:
    return sum(node.ray == "alive" for node in nodes if node.expected)


def _advice(state: ClusterState, verdict: Verdict, view: _QueueView | None) -> list[str]:
    name = state.name
    again = (
        f"`make cluster-down NAME={name}` cleans up, "
        f"`make cluster-up SITE={state.site} NAME={name} NODES={state.expected_nodes}` starts it again"
    )
    lines = [view.problem] if view and view.problem else []
    if verdict == "gone" and view:
        job = f"{scheduler_of(state.scheduler).title}'s job {state.job_id} is gone ({view.jobs[0].state})"
        lines.append(f"{job}, although the state file says {state.phase}. {again}")
    if verdict == "not answering":
        lines.append(f"nothing answers at {state.dashboard_url} to this cluster's token. {again}")
    if verdict == "failed":
        lines.append(again)
    if verdict == "degraded" and state.scheduler != THIS_MACHINE:
        title = scheduler_of(state.scheduler).title
        lines.append(f"`python -m cluster up --name {name} --heal` asks {title} for a replacement of what is lost")
    return lines
