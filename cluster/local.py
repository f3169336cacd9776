"""A Ray cluster on this machine: python -m cluster.local up|status|down.

It is what a scheduler's allocation gives, without a scheduler: state file, token, pinned ports, a temporary folder of
its own. `down` ends what `up` started and nothing else.
"""

import argparse
import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from cluster.ports import plan_ports
from cluster.processes import end_processes, is_running, processes_of, start_time
from cluster.state import ClusterState, Node, cluster_dir, forget, read_state, write_state, write_token

HOST = "127.0.0.1"
READY_TIMEOUT = 180.0  # seconds; 8 to 15 on two cores, 45 when others keep them busy
LOCK_TIMEOUT = READY_TIMEOUT + 30.0
# Ray counts what actors reserve, not what they use. A vLLM replica reserves 2 CPUs, and a job's actors and Serve's
# controller want some too, so a laptop with two cores would wait for ever.
MIN_CPUS = 16
OBJECT_STORE_LEAST = 100 * 1024**2  # bytes; Ray refuses less than 75 MiB, and uses /tmp where /dev/shm is small
OBJECT_STORE_LIMIT = 2 * 1024**3  # bytes; records are small, model weights do not pass through it
JOB_STOP_SECONDS = 60  # Ray kills a stopped job 3 s after its signal: too short for a checkpoint
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot know this machine's loopback


class LocalClusterError(Exception):
    """The cluster cannot be started or stopped; the message says what to do."""


class StartedTooSlowly(LocalClusterError):
    """Ray itself gave up waiting for its parts; the next try finds them in the machine's cache."""


def up(name: str, *, ephemeral: bool = False) -> tuple[ClusterState, bool]:
    """Start cluster `name` unless it is healthy; its state, and whether it was started now.

    Several at once: one starts it, the others wait for that. Raises LocalClusterError with the end of the log.
    """
    with _locked(name):
        state = read_state(name)
        if state and state.phase == "ready" and is_healthy(state):
            return _kept(state, ephemeral), False
        if state:
            _remove(state)
        try:
            return _start(name, ephemeral), True
        except StartedTooSlowly:  # Ray gives its own parts 30 s, too few on a busy machine
            return _start(name, ephemeral), True


def down(name: str, *, if_unused: bool = False) -> str:
    """Bring cluster `name` down and say what happened. `if_unused` leaves it to the jobs that still hold its lease."""
    with _locked(name):
        state = read_state(name)
        if state is None:
            return f"there is no cluster {name!r}"
        with _exclusive_lease(name) as unused:
            if if_unused and not unused:
                return f"cluster {name!r} stays up: another job works on it"
            count = _remove(state)
    return f"cluster {name!r} is down, {count} processes ended"


def is_healthy(state: ClusterState) -> bool:
    """Whether the head lives, and its dashboard, job API and job agent answer to this cluster's token."""
    head = state.pids.get("head", 0)
    if not is_running(head) or start_time(head) != state.pids.get("head_started"):
        return False
    jobs = _get(state, state.ports["dashboard"], "/api/jobs/")
    # Jobs are accepted by the head but started by the node's agent, which comes up some seconds later.
    return jobs is not None and _get(state, state.ports["agent_http"], "/api/local_raylet_healthz") is not None


def _kept(state: ClusterState, ephemeral: bool) -> ClusterState:
    """A cluster that a job started becomes one that stays, when somebody asks for that."""
    if state.ephemeral and not ephemeral:
        state = dataclasses.replace(state, ephemeral=False)
        write_state(state)
    return state


def _start(name: str, ephemeral: bool) -> ClusterState:
    folder = cluster_dir(name)
    (folder / "logs").mkdir(mode=0o700, parents=True, exist_ok=True)
    token = write_token(name, secrets.token_hex(32))
    gpus = count_gpus()
    state = _first_state(name, ephemeral, gpus)
    log = folder / "logs" / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(
            head_command(state.ports, str(state.temp_dir), gpus),
            env=head_environment(os.environ, state.ports, str(state.temp_dir), token, gpus),
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
    nodes: list[Node] = [{"ip": ip, "gpus": gpus}]
    state = dataclasses.replace(state, phase="ready", ray_address=f"{ip}:{state.ports['gcs']}", nodes=nodes)
    write_state(state)
    return state


def _first_state(name: str, ephemeral: bool, gpus: int) -> ClusterState:
    ports = plan_ports(f"{os.getuid()}:{name}")
    return ClusterState(
        name=name,
        phase="starting",
        scheduler="local",
        job_id=None,
        nodes=[{"ip": HOST, "gpus": gpus}],
        ray_address=f"{HOST}:{ports['gcs']}",
        dashboard_url=f"http://{HOST}:{ports['dashboard']}",
        ports=ports,
        run_root=str(Path("runs").absolute()),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ephemeral=ephemeral,
        temp_dir=_new_temp_dir(name),
    )


def _new_temp_dir(name: str) -> str:
    """A short path: a Unix socket's may have 107 bytes, and Ray adds 62 for session and socket names."""
    key = hashlib.sha256(str(cluster_dir(name)).encode()).hexdigest()[:6]
    return tempfile.mkdtemp(prefix=f"ray-{os.getuid()}-{key}-", dir="/tmp")


def head_command(ports: Mapping[str, int], temp_dir: str, gpus: int) -> list[str]:
    """The command that runs the head in the foreground, every port and limit given."""
    options = {
        "port": ports["gcs"],
        "node-ip-address": HOST,
        "node-manager-port": ports["node_manager"],
        "object-manager-port": ports["object_manager"],
        "ray-client-server-port": ports["ray_client"],
        "min-worker-port": ports["worker_min"],
        "max-worker-port": ports["worker_max"],
        "dashboard-host": HOST,
        "dashboard-port": ports["dashboard"],
        "dashboard-agent-listen-port": ports["agent_http"],
        "dashboard-agent-grpc-port": ports["agent_grpc"],
        "runtime-env-agent-port": ports["runtime_env_agent"],
        "metrics-export-port": ports["metrics_export"],
        "num-cpus": max(MIN_CPUS, len(os.sched_getaffinity(0))),
        "num-gpus": gpus,
        "object-store-memory": object_store_bytes(),
        "temp-dir": temp_dir,
    }
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    return ray + [f"--{option}={value}" for option, value in options.items()]


def head_environment(
    base: Mapping[str, str], ports: Mapping[str, int], temp_dir: str, token: Path, gpus: int
) -> dict[str, str]:
    """What the head and all its children inherit. RAY_TMPDIR is also the mark by which `down` knows them."""
    inherited = {key: value for key, value in base.items() if key not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    return inherited | {
        # `ray job submit -- python …` means the Python that Ray runs on.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": temp_dir,
        "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
        "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
        "RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_SECONDS),
        # The first driver would make Ray start a worker a core, which no job here can use: theirs have a runtime_env.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
        **({} if gpus else {"VLLM_TARGET_DEVICE": "cpu"}),  # the CPU build does not find its platform by itself
    }


def count_gpus() -> int:
    """GPUs this user may see. Asked from the device files: Ray's own look needs a driver library on its path."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    return len([path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()])


def object_store_bytes() -> int:
    """Shared memory for Ray objects: at most 30 % of what /dev/shm and the memory limit leave."""
    share = int(0.3 * min(shutil.disk_usage("/dev/shm").free, memory_limit()))
    return max(OBJECT_STORE_LEAST, min(OBJECT_STORE_LIMIT, share))


def memory_limit() -> int:
    """Bytes of memory this process may use: the machine's, or its control group's where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(file).read_text().strip() if Path(file).exists() else "max"
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def _wait_ready(state: ClusterState, head: "subprocess.Popen[bytes]", log: Path) -> str:
    """The head's address, as soon as everything answers that a job needs."""
    deadline = time.monotonic() + READY_TIMEOUT
    while not (is_healthy(state) and (ip := _head_ip(state))):
        seen = f"it ended with code {head.returncode}" if head.poll() is not None else None
        if time.monotonic() > deadline:
            seen = f"it did not answer within {READY_TIMEOUT:.0f} s"
        if seen:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            kind = StartedTooSlowly if "timed out during startup" in tail else LocalClusterError
            raise kind(f"the local Ray cluster did not start: {seen}. The end of {log}:\n{tail}")
        time.sleep(0.1)
    return ip


def _head_ip(state: ClusterState) -> str | None:
    """The head's address as Ray tells it to jobs in RAY_ADDRESS: the host's own, although 127.0.0.1 was asked for."""
    nodes = json.loads(_get(state, state.ports["dashboard"], "/nodes?view=summary") or "{}")
    summary: list[dict[str, str]] = nodes.get("data", {}).get("summary", [])
    return summary[0].get("ip") if summary else None  # empty until the agent has reported


def _get(state: ClusterState, port: int, path: str) -> bytes | None:
    """What a service of the cluster answers to the cluster's token, None when it does not."""
    try:
        token = (cluster_dir(state.name) / "token").read_text(encoding="utf-8")
        request = urllib.request.Request(f"http://{HOST}:{port}{path}", headers={"Authorization": f"Bearer {token}"})
        with DIRECT.open(request, timeout=3) as response:
            return bytes(response.read())
    except OSError:  # refused, reset, timed out, 4xx and 5xx, or no token file
        return None


def _remove(state: ClusterState) -> int:
    write_state(dataclasses.replace(state, phase="stopping"))
    temp_dir = str(state.temp_dir)
    head, started = state.pids.get("head", 0), state.pids.get("head_started", 0)
    count = end_processes(lambda: processes_of(temp_dir, head, started), first=head)
    _keep_logs(state.name, Path(temp_dir))
    shutil.rmtree(temp_dir, ignore_errors=True)
    forget(state.name)
    return count


def _keep_logs(name: str, temp_dir: Path) -> None:
    """Move Ray's logs of this session to the cluster's folder, in the place of the previous session's."""
    kept = cluster_dir(name) / "logs" / "ray"
    with suppress(FileNotFoundError):
        session = (temp_dir / "session_latest").resolve(strict=True)
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(session / "logs", kept)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """One `up` or `down` of a cluster at a time. The kernel frees the lock of a killed process."""
    folder = cluster_dir(name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_TIMEOUT
    with (folder / "lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LocalClusterError(f"another command holds {folder / 'lock'} for too long") from None
                time.sleep(0.1)
        yield


@contextmanager
def _exclusive_lease(name: str) -> Iterator[bool]:
    """Whether no job holds the cluster's lease; while true, none can take it."""
    with (cluster_dir(name) / "lease").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _status(name: str) -> tuple[str, int]:
    state = read_state(name)
    if state is None:
        return f"there is no cluster {name!r}. Start it: python -m cluster.local up --name {name}", 4
    if not is_healthy(state):
        return f"cluster {name!r} ({state.phase}) does not answer. Start it again: python -m cluster.local up", 4
    return f"cluster {name!r} is ready at {state.ray_address}, dashboard {state.dashboard_url}", 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description="A Ray cluster on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, text in (("up", "start it"), ("status", "ask it"), ("down", "stop it")):
        sub = commands.add_parser(command, help=text)
        sub.add_argument("--name", default="local")
        if command == "up":
            sub.add_argument("--ephemeral", action="store_true", help="the last job that leaves brings it down")
        if command == "down":
            sub.add_argument("--if-unused", action="store_true", help="only when no job works on it")
        else:
            sub.add_argument("--json", action="store_true", help="print the state file")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = _parse(argv)
    name, code = arguments.name, 0
    try:
        if arguments.command == "up":
            state, started = up(name, ephemeral=arguments.ephemeral)
            verb = "is ready" if started else "is already running"
            message = f"cluster {name!r} {verb} at {state.ray_address}, dashboard {state.dashboard_url}"
        elif arguments.command == "down":
            message = down(name, if_unused=arguments.if_unused)
        else:
            message, code = _status(name)
    except (LocalClusterError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    if getattr(arguments, "json", False) and (state_now := read_state(name)):
        message = json.dumps(dataclasses.asdict(state_now), indent=2)
    print(message)
    return code


if __name__ == "__main__":
    sys.exit(main())
