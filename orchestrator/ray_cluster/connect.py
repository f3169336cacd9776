"""Finding the Ray cluster to work on, and connecting to it.

A cluster is known by its state file, ~/.kosen/clusters/<name>/state.json. Whoever wrote it, a job sees the same.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from cluster.files import REPOSITORY, locked
from cluster.state import UP, ClusterState, lease_path, parse_state, token_path
from orchestrator import secrets
from orchestrator.errors import ClusterNotReady, SpecError, interrupt_on_sigterm
from orchestrator.ray_cluster.find import (
    ANSWER_TIMEOUT,
    current,
    inside_job,
    mode_of,
    only_running,
    read_state,
    readable_state,
    states,
    status_code,
)
from orchestrator.ray_cluster.watch import watched

LEASE_TIMEOUT = 60.0  # seconds that another job's `down` may take
# Ray packs the working directory: code and specs travel, results, environments and what is hidden do not.
NOT_CODE = [".?*", "/runs/", "/wandb/", "/tests/", "__pycache__/", "*.safetensors", "*.parquet"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a job knows of the cluster it is connected to."""

    name: str
    run_root: Path
    node_ip: str  # the head's
    serve_port: int
    gpus: int
    state: ClusterState | None  # None: a Ray cluster without a state file of ours

    @property
    def ray_address(self) -> str:
        """Where another process of this job connects to."""
        return self.state.ray_address if self.state else os.environ["RAY_ADDRESS"]

    @property
    def run_mode(self) -> int:
        """Of new run folders."""
        return mode_of(self.state)

    @property
    def is_local(self) -> bool:
        return self.state is not None and self.state.scheduler == "local"

    @property
    def serve_host(self) -> str:
        """Where Serve's proxy listens: loopback on one machine, else the head's interface."""
        return "127.0.0.1" if self.is_local else self.node_ip

    def run_folder(self, name: str) -> Path:
        """Where the run `name` is kept. Raises SpecError where only a job's own temporary folder would be left."""
        if self.state is None and inside_job() and not Path(name).is_absolute():
            raise SpecError("no state file says where this cluster keeps its runs. Give an absolute run=/folder")
        return self.run_root / name


@contextmanager
def connect(
    *, namespace: str = "kosen", env_vars: Mapping[str, str] | None = None, log_to_driver: bool = False
) -> Iterator[Cluster]:
    """Connect to the cluster of RAY_ADDRESS, of KOSEN_CLUSTER, to the one that runs, or to one started here.

    The lease is held meanwhile; a cluster that a job started goes down with the last job that leaves it.
    All workers of this job have `env_vars`, which Ray shows to everybody: no secrets. What workers print is in the
    cluster's logs, with `log_to_driver` also on our standard error.
    Raises ClusterNotReady when there is none, or it does not answer to its token. If it is taken down meanwhile, this
    process ends with that error's exit code (orchestrator.ray_cluster.watch).
    """
    secrets.load_into_environment()
    with ExitStack() as stack:
        state = _find_state(stack)
        address = state.ray_address if state else os.environ["RAY_ADDRESS"]
        _use_token(state)
        _check_answer(state, address)
        _check_place(state)
        _init_ray(address, namespace, _runtime_env(state, env_vars or {}), log_to_driver)
        stack.callback(ray.shutdown)
        stack.enter_context(watched(state))
        yield _describe(state, address)


@contextmanager
def held() -> Iterator[None]:
    """The cluster that submissions of this process go to is there meanwhile, as for `connect`, without connecting: one
    that is started for them goes down at the end, unless others use it. Raises ClusterNotReady."""
    with ExitStack() as stack:
        _find_state(stack)
        yield


def find(*, start: bool) -> ClusterState:
    """The state of the cluster that a submission goes to, without connecting to it; its token is set for Ray.

    `start`: where there is none, start a local one that stays. Raises ClusterNotReady.
    """
    state = current()
    if start and (state is None or (state.name == "local" and state.ephemeral)):
        state = _start_local(ephemeral=False)  # one that a job started becomes one that stays
    if state is None:
        raise ClusterNotReady(f"no cluster that we know of is running. {_NEXT}")
    _use_token(state)
    _check_answer(state, state.ray_address)
    os.environ.pop("RAY_ADDRESS", None)  # it would win over the address that we found
    return state


def _find_state(stack: ExitStack) -> ClusterState | None:
    address = os.environ.get("RAY_ADDRESS")
    name = os.environ.get("KOSEN_CLUSTER")
    if address:
        found = current()
        if found is None:
            return None
        name = found.name
    elif name is None:
        name = only_running() or "local"
    stack.callback(_leave, name)
    stack.enter_context(_lease(name))
    if name == "local" and not address:
        return _start_local(ephemeral=True)  # does nothing when it is healthy
    state = read_state(name)
    if state is None:
        raise ClusterNotReady(f"there is no cluster {name!r}. Known: {[s.name for s in states()]}. {_NEXT}")
    return state


_NEXT = "Start one with `make cluster-up`, or unset KOSEN_CLUSTER and RAY_ADDRESS"


def _start_local(*, ephemeral: bool) -> ClusterState:
    if readable_state("local") is None:
        until = "this job ends" if ephemeral else "make cluster-down NAME=local"
        print(f"no Ray cluster is running: starting one on this machine, until {until}", file=sys.stderr)
    command = [sys.executable, "-m", "cluster", "up", "--json", *(["--ephemeral"] if ephemeral else [])]
    done = subprocess.run(command, cwd=Path.cwd(), env=_importable(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterNotReady(done.stderr.strip().removeprefix("error: "))
    return parse_state(done.stdout)


def _leave(name: str) -> None:
    """After the lease is given back: bring an ephemeral cluster down, unless others use it or we run inside it."""
    state = readable_state(name)
    if state and state.ephemeral and not inside_job():
        command = [sys.executable, "-m", "cluster", "down", "--name", name, "--if-unused"]
        subprocess.run(command, env=_importable(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _importable() -> dict[str, str]:
    """The environment in which `python -m cluster` finds the repository from any working directory."""
    return os.environ | {"PYTHONPATH": python_path()}


def python_path() -> str:
    """Where this repository is, before what the user has set: a site's modules may come from there."""
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


@contextmanager
def _lease(name: str) -> Iterator[None]:
    """A shared lock, which `down --if-unused` respects. The kernel releases it when this process dies."""
    path = lease_path(name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    late = ClusterNotReady(f"cluster {name!r} has been going down for {LEASE_TIMEOUT:.0f} s")
    with locked(path, LEASE_TIMEOUT, late, shared=True):
        yield


def _use_token(state: ClusterState | None) -> None:
    if state:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_path(state.name))
        Config.initialize("")  # Ray read its environment when it was imported; this is how it does it again
        AuthenticationTokenLoader.instance().reset_cache()


def _check_answer(state: ClusterState | None, address: str) -> None:
    if state is None:
        _check_socket(address)
        return
    if state.phase not in UP:
        raise ClusterNotReady(f"cluster {state.name!r} is {state.phase}. make cluster-status NAME={state.name}")
    code = status_code(state)
    if code != 200:
        seen = "does not answer" if code is None else f"answers {code} to its token"
        raise ClusterNotReady(f"cluster {state.name!r} at {state.dashboard_url} {seen}. {_NEXT}")


def _check_place(state: ClusterState | None) -> None:
    """A driver needs a node of its cluster on its own machine, else Ray fails late and says little."""
    if state is None or state.scheduler == "local":
        return
    addresses = {address.address for found in psutil.net_if_addrs().values() for address in found}
    if not addresses & {node.ip for node in state.nodes}:
        raise ClusterNotReady(
            f"cluster {state.name!r} runs on other machines than this one. Send the job there: make submit JOB=…"
        )


def _check_socket(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto" and the like: Ray itself finds it
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT).close()
    except OSError as error:
        raise ClusterNotReady(f"nothing answers at RAY_ADDRESS={address} ({error}). {_NEXT}") from None


def _init_ray(address: str, namespace: str, runtime_env: dict[str, Any], log_to_driver: bool) -> None:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns about CUDA_VISIBLE_DEVICES
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nor does Ray Data start an actor that collects them
    # Ray Data's own actors make the core worker print a warning about Ray Data. Its errors reach us as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _silent_native_code():
            ray.init(
                address=address,
                namespace=namespace,
                log_to_driver=log_to_driver,
                logging_level=logging.ERROR,
                runtime_env=runtime_env,
            )
    except (ConnectionError, RuntimeError) as error:
        raise ClusterNotReady(f"cannot join the Ray cluster at {address}: {error}. {_NEXT}") from None
    if threading.current_thread() is threading.main_thread():
        interrupt_on_sigterm()


@contextmanager
def _silent_native_code() -> Iterator[None]:
    """Nothing on file descriptor 2: Ray's C++ code announces there which log level it was told."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _runtime_env(state: ClusterState | None, env_vars: Mapping[str, str]) -> dict[str, Any]:
    """How workers find our packages. A job that Ray runs has its working directory already; a cluster on this machine
    reads the repository where it is, which saves packing and unpacking; others get a copy."""
    common = {"worker_process_setup_hook": "orchestrator.secrets.set_up_worker", "env_vars": dict(env_vars)}
    if inside_job():
        return common
    if state and state.scheduler == "local":
        return common | {"env_vars": {"PYTHONPATH": python_path(), **env_vars}}
    return common | {"working_dir": str(REPOSITORY), "excludes": NOT_CODE}


def _describe(state: ClusterState | None, address: str) -> Cluster:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if state is None:
        head = str(ray.get_runtime_context().gcs_address).rpartition(":")[0]
        return Cluster(address, Path("runs").absolute(), head, 8000, gpus, None)
    return Cluster(
        name=state.name,
        run_root=Path(state.run_root),
        node_ip=state.nodes[0].ip,
        serve_port=state.ports["serve"],
        gpus=gpus,
        state=state,
    )
