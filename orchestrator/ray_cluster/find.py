"""Which cluster a job goes to, and what its state file says, ~/.kosen/clusters/<name>/state.json. Needs no Ray.

Whoever wrote such a file, a scheduler's bootstrapper or the local one, a job reads the same.
"""

import os
from pathlib import Path

from cluster.dashboard import get_status
from cluster.errors import reason
from cluster.files import expanded
from cluster.state import UP, ClusterState, load_state, names, state_path, token_path
from orchestrator.errors import ClusterNotReady
from orchestrator.files import RUN_MODE

ANSWER_TIMEOUT = 5.0  # seconds; ray.init with a wrong token hangs 21 s and says little


def current() -> ClusterState | None:
    """The state of the cluster that `connect` would choose, without connecting; None where it would start one."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return next((s for s in states() if address in (s.ray_address, s.dashboard_url)), None)
    name = os.environ.get("KOSEN_CLUSTER") or only_running()
    return read_state(name) if name else None


def inside_job() -> bool:
    """Whether Ray runs this process as a job's driver, in a working directory that it deletes afterwards."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def run_root() -> Path:
    """Where runs are kept, without connecting."""
    state = current()
    return Path(state.run_root) if state else Path("runs").absolute()


def mode_of(state: ClusterState | None) -> int:
    """Of new run folders: the site's `run_mode`."""
    return int(state.run_mode, 8) if state else RUN_MODE


def find_path(text: str) -> str:
    """A relative path that is not in the working directory, from where the cluster was started; else `text`.

    Ray copies a job's code into a temporary folder, where models and data that git ignores do not come along.
    """
    if Path(text).is_absolute() or _exists(text):
        return text
    there = str(run_root().parent / text)
    return there if _exists(there) else text


def local_path(text: str | Path) -> Path:
    """The same as a path, with ~ expanded. Raises SpecError for what cannot be a path."""
    return expanded(find_path(str(text)))


def _exists(path: str) -> bool:
    """False too for what cannot be a path, which pathlib raises of in three ways; whoever opens it says it better."""
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name too long; a zero byte; ~ and a user that there is not
        return False


def known_gpus() -> int | None:
    """GPUs of the running cluster as its state file says, None where there is no such file."""
    state = current()
    return sum(node.gpus for node in state.nodes) if state else None


def only_running() -> str | None:
    """The local cluster if it runs, else the only other one that does, else None."""
    answers = {state.name: status_code(state) for state in states() if state.phase in UP}
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
        for name in names():
            if name != "local":  # which is started anew, whatever its file says
                read_state(name)  # raises what is wrong with it: it may run all the same
    return running[0] if running else None


def read_state(name: str) -> ClusterState | None:
    """The state of cluster `name`, None where it has none. Raises ClusterNotReady for an invalid file."""
    try:
        state = load_state(name)
        if state and state.phase in UP and not (state.nodes and "serve" in state.ports):
            raise ValueError("it says that the cluster is up, and has no nodes or no port for serving")
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise ClusterNotReady(
            f"{state_path(name)} is not a valid cluster state: {why}. "
            "Check whether something still runs, then remove that file"
        ) from None
    return state


def readable_state(name: str) -> ClusterState | None:
    """The same, and None for what is not a state: one damaged file must not hide other clusters."""
    try:
        return read_state(name)
    except ClusterNotReady:
        return None


def states() -> list[ClusterState]:
    return [state for name in names() if (state := readable_state(name))]


def status_code(state: ClusterState) -> int | None:
    """What the dashboard answers to the cluster's token, None when it does not."""
    return get_status(f"{state.dashboard_url}/api/version", token_path(state.name), timeout=ANSWER_TIMEOUT)
