"""What a running cluster leaves for others to find: ~/.kosen/clusters/<name>/{state.json,token,logs/}."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from cluster.files import kosen_home, replace

Phase = Literal["queued", "starting", "ready", "degraded", "stopping", "failed"]
UP = ("ready", "degraded")  # phases in which a cluster takes jobs


@dataclass(frozen=True, slots=True)
class Node:
    """A node that a cluster has, or had."""

    name: str  # the scheduler's, or the host's
    ip: str
    cpus: int | None  # None: the state file does not say
    gpus: int


@dataclass(frozen=True, slots=True)
class ClusterState:
    """One cluster, as `state.json` holds it. Whoever wrote that file, commands and jobs read it as this."""

    name: str
    phase: Phase
    scheduler: str
    job_id: str | None
    nodes: list[Node]
    ray_address: str  # host:port of the head's GCS
    dashboard_url: str
    ports: Mapping[str, int]
    run_root: str  # absolute; where jobs put their run folders
    started_at: str  # ISO 8601, UTC
    pids: Mapping[str, int] = field(default_factory=dict)  # what `up` started itself
    ephemeral: bool = False  # started by a job: the last job that leaves brings it down
    temp_dir: str | None = None
    host: str = ""  # where the local cluster lives: several hosts may share ~/.kosen
    site: str = "local"
    expected_nodes: int = 1
    run_mode: str = "0700"  # of new run folders
    problem: str | None = None  # why it failed, or is degraded


# What the files of older versions, and those that are not ours, may lack without a default above.
_MAY_LACK = {"job_id": "", "started_at": ""}
_NODE_MAY_LACK = {"cpus": None}


def clusters_dir() -> Path:
    """The folder of all clusters of this user."""
    return kosen_home() / "clusters"


def cluster_dir(name: str) -> Path:
    return clusters_dir() / name


def state_path(name: str) -> Path:
    return cluster_dir(name) / "state.json"


def lease_path(name: str) -> Path:
    """The file that jobs hold a shared flock on while they use the cluster."""
    return cluster_dir(name) / "lease"


def names() -> list[str]:
    """What may be this user's clusters, also on other hosts: the names of all that lies in their folder."""
    return sorted(folder.name for folder in clusters_dir().iterdir()) if clusters_dir().is_dir() else []


def known() -> list[str]:
    """The names of those that have a state."""
    return [name for name in names() if read_state(name)]


def is_damaged(name: str) -> bool:
    """Whether there is a state file that cannot be understood: its cluster may live."""
    return state_path(name).exists() and read_state(name) is None


def read_state(name: str) -> ClusterState | None:
    """The state of cluster `name`, or None where there is none from which this version could end the cluster."""
    try:
        state = load_state(name)
    except ValueError:
        return None
    return state if state and state.job_id != "" else None


def load_state(name: str) -> ClusterState | None:
    """The state of cluster `name`, None where it has none. Raises OSError, and ValueError as `parse_state` does."""
    try:
        text = state_path(name).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    state = parse_state(text)
    if state.name != name:
        raise ValueError(f"it is that of cluster {state.name!r}")
    return state


def parse_state(text: str) -> ClusterState:
    """The state that a file or `cluster up --json` holds; keys that this version does not know are passed over.

    Raises ValueError, which says what is wrong: a value of another type would end whatever reads it, anywhere.
    """
    try:
        values = _fields(json.loads(text), ClusterState, _MAY_LACK, "it")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    nodes = [Node(**_fields(node, Node, _NODE_MAY_LACK, "a node")) for node in values["nodes"]]
    return ClusterState(**{"expected_nodes": max(1, len(nodes))} | values | {"nodes": nodes})


def _fields(values: Any, kind: type[ClusterState | Node], may_lack: Mapping[str, object], what: str) -> dict[str, Any]:
    """The fields of `kind` that `values` has, each of its type."""
    if not isinstance(values, dict):
        raise ValueError(f"{what} is a {type(values).__name__}, expected an object")
    values = {**may_lack, **values}
    for one in dataclasses.fields(kind):
        if one.name in values and not _fits(values[one.name], one.type):
            raise ValueError(f"{what} has an odd {one.name!r}")
        if one.name not in values and one.default is one.default_factory is dataclasses.MISSING:
            raise ValueError(f"{what} has no {one.name!r}")
    return {one.name: values[one.name] for one in dataclasses.fields(kind) if one.name in values}


def _fits(value: object, kind: Any) -> bool:
    """Whether a value from JSON is of a field's type; the entries of a list are looked at elsewhere."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in arguments
    if origin is UnionType:
        return any(_fits(value, one) for one in arguments)
    if origin is Mapping:
        return isinstance(value, dict) and all(_fits(one, arguments[1]) for one in value.values())
    return type(value) is (origin or kind)  # True is an int to Python, and is not a number of nodes


def write_state(state: ClusterState) -> None:
    """Write `state.json` by rename, so that a reader never sees half of it."""
    text = json.dumps(dataclasses.asdict(state), indent=2)
    replace(state_path(state.name), text + "\n", mode=0o644)


def write_token(name: str, token: str) -> Path:
    """Write the cluster's token, readable by its owner only, and return its path."""
    path = token_path(name)
    replace(path, token, mode=0o600)
    return path


def token_path(name: str) -> Path:
    return cluster_dir(name) / "token"


def client_variables(state: ClusterState) -> dict[str, str]:
    """What a process needs in its environment to find this cluster: Ray's own commands, and our jobs."""
    return {
        "RAY_ADDRESS": state.ray_address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path(state.name)),
        "KOSEN_CLUSTER": state.name,
    }


def forget(name: str) -> None:
    """Remove state, token, the list of helpers and the ledger, which has what jobs had in their environments. The logs
    stay."""
    for file in ("state.json", "token", "helpers.json", "ledger.jsonl"):
        (cluster_dir(name) / file).unlink(missing_ok=True)
