"""A Ray cluster on this machine: SITE=local.

It is what a scheduler's allocation gives, without a scheduler: state file, token, pinned ports, a temporary folder of
its own. `down` stops what `up` started and nothing else.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from cluster.dashboard import NODES, get, node_summaries
from cluster.errors import ClusterError, PreflightFailed, ProfileError
from cluster.folder.cluster_folder import ClusterFolder
from cluster.folder.request import Request
from cluster.machine.exit_codes import cannot_run, shell_code
from cluster.machine.logs import keep_logs, tail
from cluster.machine.network import comm_environment, find_link, host_port
from cluster.machine.ports import plan_ports, reserve_ports
from cluster.machine.processes import end_processes, is_running, processes_of, start_time
from cluster.machine.ray_command import SLOW_START, RayNode, ray_command, ray_environment
from cluster.machine.resources import Resources, local_resources
from cluster.machine.temp_dirs import make_temp_dir, remove_temp_dir
from cluster.preflight.checks import check_node, render, worst, write_canary
from cluster.probes.limits import raise_soft_limits
from cluster.probes.recorder import recording
from cluster.profile import THIS_MACHINE, Site, to_yaml
from cluster.schedulers.base import outside_a_job
from cluster.state import (
    ClusterState,
    Node,
    client_variables,
    cluster_dir,
    forget,
    lease_path,
    read_state,
    token_path,
    write_state,
    write_token,
)

HOST = "127.0.0.1"
READY_TIMEOUT = 180.0  # seconds; 8 to 15 on two cores, 45 when others keep them busy
LOCK_TIMEOUT = READY_TIMEOUT + 30.0
LEAVE_TIMEOUT = 3.0  # seconds that jobs have to leave a cluster that is taken down
# Ray counts what actors reserve, not what they use. A vLLM replica reserves 2 CPUs, and a job's actors and Serve's
# controller need some too, so a laptop with two cores would wait for ever.
MIN_CPUS = 16


LOCAL = Site(scheduler=THIS_MACHINE)


class StartedTooSlowly(ClusterError):
    """Ray itself gave up waiting for its parts; the next try finds them in the machine's cache."""


class ThisMachine:
    """The commands of a cluster on this machine."""

    def check(self, request: Request) -> None:
        if request.nodes != 1:
            raise ProfileError(
                f"--nodes={request.nodes}: SITE={request.site_name} is this machine alone. "
                "Choose a site with a scheduler"
            )

    def dry_run(self, request: Request, say: Callable[[str], None]) -> str:
        return to_yaml(request.site)

    def up(self, request: Request, *, ephemeral: bool, say: Callable[[str], None]) -> ClusterState:
        state, started = up(request.name, ephemeral=ephemeral, site=request.site)
        verb = "is ready" if started else "is already running"
        say(f"cluster {state.name!r} {verb} at {state.ray_address}, dashboard {state.dashboard_url}")
        return state

    def run(self, request: Request, *, wait: bool, say: Callable[[str], None]) -> int:
        return run(request)

    def preflight(self, request: Request, say: Callable[[str], None]) -> int:
        return preflight(request)

    def down(self, name: str, *, if_unused: bool = False) -> str:
        return down(name, if_unused=if_unused)

    def login_host(self, name: str) -> str | None:
        return None

    def describe(self, state: ClusterState) -> list[str]:
        return []  # `up` has said where it is


def up(name: str, *, ephemeral: bool = False, site: Site = LOCAL) -> tuple[ClusterState, bool]:
    """Start cluster `name` unless it is healthy; its state, and whether it was started now.

    Several at once: one starts it, the others wait for that. Raises ClusterError with the end of the log.
    """
    with ClusterFolder(name).locked(LOCK_TIMEOUT):
        state = _own_state(name)
        if state and state.phase == "ready" and is_healthy(state):
            return _kept(state, ephemeral), False
        if state:
            _remove(state)
        # Held until Ray listens: a cluster of this name in another home would try the same block first.
        ports, held = reserve_ports(f"{os.getuid()}:{name}", site.port_range)
        with held:
            try:
                return _start(name, ports, ephemeral, site), True
            except StartedTooSlowly:  # Ray gives its own parts 30 s, too few on a busy machine
                return _start(name, ports, ephemeral, site), True


def down(name: str, *, if_unused: bool = False) -> str:
    """Bring cluster `name` down and say what happened. `if_unused` leaves it to the jobs that still hold its lease."""
    with ClusterFolder(name).locked(LOCK_TIMEOUT):
        state = _own_state(name)
        if state is None:
            return f"there is no cluster {name!r}"
        with _exclusive_lease(name) as unused:
            if if_unused and not unused:
                return f"cluster {name!r} stays up: another job uses it"
            count = _remove(state)
    left = f"; {state.temp_dir} is left, because it is not a folder of Kosen's" if _is_left(state) else ""
    return f"cluster {name!r} is down, {count} processes ended{left}"


def run(request: Request) -> int:
    """Run the request's command on a cluster of this machine, which goes down again if this started it.

    Its exit code, 128 + N where signal N killed it. Raises NoCommand where it cannot be started.
    """
    state, _ = up(request.name, ephemeral=True, site=request.site)
    environment = {**os.environ, **client_variables(state)}
    exporter = {state.host: host_port(state.nodes[0].ip, state.ports["metrics_export"])}
    try:
        with recording(ClusterFolder(request.name).logs, exporter):
            return shell_code(subprocess.call(request.command, cwd=request.cwd, env=environment))
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise cannot_run(request.command, error) from None
    finally:
        if state.ephemeral:
            down(request.name, if_unused=True)


def preflight(request: Request) -> int:
    """Check this machine and print what was found; 0 unless something would break a job."""
    raise_soft_limits()
    host = socket.gethostname()
    with tempfile.TemporaryDirectory(prefix="kosen-preflight-") as folder:
        write_canary(Path(folder))
        findings = check_node(
            site=request.site,
            host=host,
            link=find_link(None, request.site.interface),
            ports=plan_ports(host, request.site.port_range),
            job_dir=Path(folder),
            gpus=local_resources().gpus,
            peers=[],
        )
    print(render(findings))
    return PreflightFailed.exit_code if worst(findings) == "error" else 0


def _own_state(name: str) -> ClusterState | None:
    """The state of a cluster of this machine. Raises ClusterError where the name is taken elsewhere."""
    state = read_state(name)
    if state and state.scheduler != THIS_MACHINE:
        raise ClusterError(f"{name!r} is a {state.scheduler} cluster, job {state.job_id}. Choose another NAME=")
    if state and state.host not in ("", socket.gethostname()):
        raise ClusterError(
            f"cluster {name!r} runs on {state.host}, which shares this home folder. Choose another NAME="
        )
    return state


def is_healthy(state: ClusterState) -> bool:
    """Whether the head lives, and its dashboard, job API and job agent answer to this cluster's token."""
    head = state.pids.get("head", 0)
    if not is_running(head) or start_time(head) != state.pids.get("head_started"):
        return False
    jobs = _get(state, state.ports["dashboard"], "/api/jobs/")
    # Jobs are accepted by the head but started by the node's agent, which comes up some seconds later.
    return jobs is not None and _get(state, state.ports["agent_http"], "/api/local_raylet_healthz") is not None


def _kept(state: ClusterState, ephemeral: bool) -> ClusterState:
    """A cluster that a job started becomes one that stays, when a user asks for that."""
    if state.ephemeral and not ephemeral:
        state = dataclasses.replace(state, ephemeral=False)
        write_state(state)
    return state


def _start(name: str, ports: dict[str, int], ephemeral: bool, site: Site) -> ClusterState:
    logs = ClusterFolder(name).logs
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = write_token(name, secrets.token_hex(32))
    resources = local_resources()
    state = _first_state(name, ports, ephemeral, resources, site)
    node = RayNode(
        ip=HOST,
        ports=state.ports,
        temp_dir=str(state.temp_dir),
        token=token,
        cpus=_cpus(resources),
        gpus=resources.gpus,
        object_store=resources.object_store,
    )
    log = logs / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(
            ray_command(node),
            env=ray_environment({**_communication(site), **outside_a_job(os.environ), **site.env}, node),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the user's terminal must not reach it
        )
    state = dataclasses.replace(state, pids={"head": head.pid, "head_started": start_time(head.pid)})
    write_state(state)
    try:
        ip = _wait_ready(state, head, log)
    except BaseException:  # Ctrl-C too: a half-started cluster is of no use to anyone
        _remove(state)
        raise
    nodes = [dataclasses.replace(state.nodes[0], ip=ip)]
    state = dataclasses.replace(state, phase="ready", ray_address=f"{ip}:{state.ports['gcs']}", nodes=nodes)
    write_state(state)
    return state


def _communication(site: Site) -> dict[str, str]:
    """Ray itself stays on loopback; the profile's interface is for NCCL and Gloo."""
    return comm_environment(find_link(None, site.interface)) if site.interface else {}


def _first_state(name: str, ports: dict[str, int], ephemeral: bool, resources: Resources, site: Site) -> ClusterState:
    host = socket.gethostname()
    return ClusterState(
        name=name,
        phase="starting",
        scheduler=THIS_MACHINE,
        job_id=None,
        nodes=[Node(name=host, ip=HOST, cpus=_cpus(resources), gpus=resources.gpus)],
        ray_address=f"{HOST}:{ports['gcs']}",
        dashboard_url=f"http://{HOST}:{ports['dashboard']}",
        ports=ports,
        run_root=str(Path("runs").absolute()),
        run_mode=site.run_mode,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ephemeral=ephemeral,
        temp_dir=_new_temp_dir(name, site.temp_dir),
        host=host,
    )


def _cpus(resources: Resources) -> int:
    """What Ray is told to have."""
    return max(MIN_CPUS, resources.cpus)


def _new_temp_dir(name: str, root: str) -> str:
    """A short path: a Unix socket's may have 107 bytes, and Ray adds 62 for session and socket names."""
    key = hashlib.sha256(str(cluster_dir(name)).encode()).hexdigest()[:6]
    return make_temp_dir(root, f"ray-{os.getuid()}-{key}-")


def _wait_ready(state: ClusterState, head: "subprocess.Popen[bytes]", log: Path) -> str:
    """The head's address, as soon as everything answers that a job needs."""
    deadline = time.monotonic() + READY_TIMEOUT
    while not (is_healthy(state) and (ip := _head_ip(state))):
        seen = f"it ended with code {head.returncode}" if head.poll() is not None else None
        if time.monotonic() > deadline:
            seen = f"it did not answer within {READY_TIMEOUT:.0f} s"
        if seen:
            said = tail(log)
            kind = StartedTooSlowly if SLOW_START in said else ClusterError
            raise kind(f"the local Ray cluster did not start: {seen}. The end of {log}:\n{said}")
        time.sleep(0.1)
    return ip


def _head_ip(state: ClusterState) -> str | None:
    """The head's address as Ray gives it to jobs in RAY_ADDRESS: the host's own, although 127.0.0.1 was asked for."""
    nodes = node_summaries(json.loads(_get(state, state.ports["dashboard"], NODES) or "null"))
    return nodes[0].get("ip") if nodes else None  # empty until the agent has reported


def _get(state: ClusterState, port: int, path: str) -> bytes | None:
    return get(f"http://{HOST}:{port}{path}", token_path(state.name))


def _remove(state: ClusterState) -> int:
    write_state(dataclasses.replace(state, phase="stopping"))
    _let_jobs_leave(state.name)
    temp_dir = str(state.temp_dir)
    head, started = state.pids.get("head", 0), state.pids.get("head_started", 0)
    count = end_processes(lambda: processes_of(temp_dir, head, started), first=head)
    _keep_logs(state.name, Path(temp_dir))
    remove_temp_dir(temp_dir)
    forget(state.name)
    return count


def _let_jobs_leave(name: str) -> None:
    """Jobs watch the state and leave with a sentence; Ray, once it is gone, would end them without one."""
    deadline = time.monotonic() + LEAVE_TIMEOUT
    while time.monotonic() < deadline:
        with _exclusive_lease(name) as unused:
            if unused:
                return
        time.sleep(0.05)


def _is_left(state: ClusterState) -> bool:
    return bool(state.temp_dir) and Path(str(state.temp_dir)).exists()


def _keep_logs(name: str, temp_dir: Path) -> None:
    """Copy Ray's logs of this session to the cluster's folder, in the place of the previous session's."""
    with suppress(FileNotFoundError):
        session = (temp_dir / "session_latest").resolve(strict=True)
        token = token_path(name)
        known = token.read_bytes().strip() if token.exists() else b""
        keep_logs(session / "logs", ClusterFolder(name).logs / "ray", known)


@contextmanager
def _exclusive_lease(name: str) -> Iterator[bool]:
    """Whether no job holds the cluster's lease; while true, none can take it."""
    with lease_path(name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
