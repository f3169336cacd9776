"""What a running cluster leaves for others to find: ~/.kosen/clusters/<name>/{state.json,token,logs/}."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

Phase = Literal["starting", "ready", "stopping"]


class Node(TypedDict):
    ip: str
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


def clusters_dir() -> Path:
    """The folder of all clusters of this user. KOSEN_HOME moves ~/.kosen."""
    return Path(os.environ.get("KOSEN_HOME", "~/.kosen")).expanduser().absolute() / "clusters"


def cluster_dir(name: str) -> Path:
    return clusters_dir() / name


def read_state(name: str) -> ClusterState | None:
    """The state of cluster `name`, or None where there is none that this version understands."""
    try:
        values: dict[str, Any] = json.loads((cluster_dir(name) / "state.json").read_text(encoding="utf-8"))
        return ClusterState(**values)
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def write_state(state: ClusterState) -> None:
    """Write `state.json` by rename, so that a reader never sees half of it."""
    text = json.dumps(dataclasses.asdict(state), indent=2)
    _replace(cluster_dir(state.name) / "state.json", text + "\n", mode=0o644)


def write_token(name: str, token: str) -> Path:
    """Write the cluster's token, readable by its owner only, and return its path."""
    path = cluster_dir(name) / "token"
    _replace(path, token, mode=0o600)
    return path


def forget(name: str) -> None:
    """Remove state and token; the logs stay."""
    for file in ("state.json", "token"):
        (cluster_dir(name) / file).unlink(missing_ok=True)


def _replace(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - the mode must hold from the first byte
        file.write(text)
    draft.replace(path)
