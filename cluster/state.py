"""What a running cluster leaves for others to find: ~/.kosen/clusters/<name>/{state.json,token,logs/}."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from cluster.files import replace

Phase = Literal["queued", "starting", "ready", "degraded", "stopping", "failed"]


class Node(TypedDict):
    name: str  # the scheduler's, or the host's
    ip: str
    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True)
class ClusterState:
    """One cluster, as `state.json` holds it. Jobs read the file, never this class."""

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


STATE = TypeAdapter(ClusterState)


def is_damaged(name: str) -> bool:
    """Whether there is a state file that cannot be understood: its cluster may live."""
    return (cluster_dir(name) / "state.json").exists() and read_state(name) is None


def clusters_dir() -> Path:
    """The folder of all clusters of this user. KOSEN_HOME moves ~/.kosen."""
    return Path(os.environ.get("KOSEN_HOME", "~/.kosen")).expanduser().absolute() / "clusters"


def cluster_dir(name: str) -> Path:
    return clusters_dir() / name


def known() -> list[str]:
    """The names of this user's clusters that have a state, also of those on other hosts."""
    folders = sorted(clusters_dir().iterdir()) if clusters_dir().is_dir() else []
    return [folder.name for folder in folders if read_state(folder.name)]


def read_state(name: str) -> ClusterState | None:
    """The state of cluster `name`, or None where there is none that this version understands.

    A value of another type, or the state of another cluster, is not understood: what reads it would end anywhere.
    """
    try:
        state = STATE.validate_json((cluster_dir(name) / "state.json").read_bytes(), strict=True)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return state if state.name == name else None


def write_state(state: ClusterState) -> None:
    """Write `state.json` by rename, so that a reader never sees half of it."""
    text = json.dumps(dataclasses.asdict(state), indent=2)
    replace(cluster_dir(state.name) / "state.json", text + "\n", mode=0o644)


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
