"""What is known of clusters from their state files, ~/.kosen/clusters/<name>/state.json. Needs no Ray.

Whoever wrote such a file, a scheduler's bootstrapper or the local one, a job reads the same.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, cast

from orchestrator.errors import ClusterNotReady
from orchestrator.files import RUN_MODE, expanded

State = dict[str, Any]
UP = ("ready", "degraded")  # phases in which a cluster takes jobs
ANSWER_TIMEOUT = 5.0  # seconds; ray.init with a wrong token hangs 21 s and says little
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # clusters are not behind a web proxy


def current() -> State | None:
    """The state of the cluster that `connect` would choose, without connecting; None where it would start one."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return next((s for s in states() if address in (s["ray_address"], s["dashboard_url"])), None)
    name = os.environ.get("KOSEN_CLUSTER") or only_running()
    return read_state(name) if name else None


def inside_job() -> bool:
    """Whether Ray runs this process as a job's driver, in a working directory that it deletes afterwards."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def run_root() -> Path:
    """Where runs are kept, without connecting."""
    state = current()
    return Path(state["run_root"]) if state else Path("runs").absolute()


def mode_of(state: State | None) -> int:
    """Of new run folders: the site's `run_mode`, which older state files do not have."""
    return int(state["run_mode"], 8) if state and "run_mode" in state else RUN_MODE


def find_path(text: str) -> str:
    """A relative path that is not in the working directory, from where the cluster was started; else `text`.

    Ray copies a job's code into a temporary folder, where models and data that git ignores do not come along.
    """
    if Path(text).is_absolute() or _exists(text):
        return text
    there = str(run_root().parent / text)
    return there if _exists(there) else text


def local_path(text: str | Path) -> Path:
    """The same as a path, with ~ expanded. Raises SpecError for what can be no path."""
    return expanded(find_path(str(text)))


def _exists(path: str) -> bool:
    """False too for what can be no path, which pathlib raises of in three ways; whoever opens it says it better."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name too long; a zero byte; ~ and a user that there is not
        return False


def known_gpus() -> int | None:
    """GPUs of the running cluster as its state file says, None where there is no such file."""
    state = current()
    return sum(node["gpus"] for node in state["nodes"]) if state else None


def only_running() -> str | None:
    """The local cluster if it runs, else the only other one that does, else None."""
    answers = {state["name"]: status_code(state) for state in states() if state["phase"] in UP}
    running = [name for name, code in answers.items() if code == 200]
    if "local" in running:
        return "local"
    if len(running) > 1:
        raise ClusterNotReady(f"several clusters run: {', '.join(running)}. Choose one with KOSEN_CLUSTER=<name>")
    closed = [name for name, code in answers.items() if code in (401, 403) and name != "local"]
    if closed and not running:  # to start another one here would be a surprise
        raise ClusterNotReady(
            f"cluster {closed[0]!r} answers {answers[closed[0]]} to its token. "
            f"If another cluster has that address by now, make cluster-down NAME={closed[0]} removes its state"
        )
    if not running:
        for name in _names():
            if name != "local":  # which is started anew, whatever its file says
                read_state(name)  # raises what is wrong with it: it may run all the same
    return running[0] if running else None


def clusters_dir() -> Path:
    return expanded(os.environ.get("KOSEN_HOME", "~/.kosen")).absolute() / "clusters"


def read_state(name: str) -> State | None:
    """The state of cluster `name`, None where it has none. Raises ClusterNotReady for a file that holds no state."""
    path = clusters_dir() / name / "state.json"
    try:
        return _parse(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
        raise ClusterNotReady(
            f"{path} is not a valid cluster state: {reason}. Check whether something still runs, then remove that file"
        ) from None


def readable_state(name: str) -> State | None:
    """The same, and None for what is not a state: one damaged file must not hide other clusters."""
    try:
        return read_state(name)
    except ClusterNotReady:
        return None


def states() -> list[State]:
    return [state for name in _names() if (state := readable_state(name))]


def _names() -> list[str]:
    return sorted(folder.name for folder in clusters_dir().iterdir()) if clusters_dir().is_dir() else []


# What jobs read of a state, and of each of its nodes.
_FIELDS: dict[str, type] = {
    **dict.fromkeys(("name", "phase", "scheduler", "ray_address", "dashboard_url", "run_root"), str),
    **{"ephemeral": bool, "nodes": list, "ports": dict},
}
_NODE_FIELDS: dict[str, type] = {"name": str, "ip": str, "gpus": int}


def _parse(path: Path) -> State:
    """Raises ValueError, saying what is wrong, for what is not a state of the cluster that its folder names."""
    state = json.loads(path.read_text(encoding="utf-8"))
    _check_fields(state, _FIELDS, "it")
    for node in state["nodes"]:
        _check_fields(node, _NODE_FIELDS, "a node")
    if state["name"] != path.parent.name:
        raise ValueError(f"it is that of cluster {state['name']!r}")
    if state["phase"] in UP and not (state["nodes"] and isinstance(state["ports"].get("serve"), int)):
        raise ValueError("it says that the cluster is up, and has no nodes or no port for serving")
    return cast(State, state)


def _check_fields(values: Any, fields: dict[str, type], what: str) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{what} is a {type(values).__name__}, expected an object")
    for name, kind in fields.items():
        if not isinstance(values.get(name), kind):
            raise ValueError(f"{what} has {'an invalid' if name in values else 'no'} {name!r}")


def status_code(state: State) -> int | None:
    """What the dashboard answers to the cluster's token, None when it does not."""
    try:
        token = (clusters_dir() / state["name"] / "token").read_text(encoding="utf-8").strip()
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{state['dashboard_url']}/api/version", headers=headers)
        with DIRECT.open(request, timeout=ANSWER_TIMEOUT) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException):  # gone; an address or a token that is none; no HTTP
        return None
