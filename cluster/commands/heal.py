"""`up --heal`: ask the scheduler for as many nodes as a cluster has lost, and wait until they have joined it."""

import dataclasses
import time
from collections.abc import Callable

from cluster.commands.batch_system import LOCK_TIMEOUT, QUEUE_TIMEOUT, raise_stuck
from cluster.dashboard import NODES, alive_ips, get_json
from cluster.errors import ClusterError
from cluster.folder.cluster_folder import ClusterFolder
from cluster.schedulers.base import Job, Observer, Scheduler, scheduler_of
from cluster.schedulers.script import save_script
from cluster.state import UP, ClusterState, read_state, token_path

POLL = 2.0  # seconds between polls of the dashboard and of the replacement's job


def heal(name: str, say: Callable[[str], None]) -> ClusterState:
    """Ask the scheduler for as many nodes as the cluster has lost; they join it as a job of their own."""
    state, folder = _running(name), ClusterFolder(name)
    with folder.locked(LOCK_TIMEOUT):
        alive = _alive(state)
        if alive is None:
            raise ClusterError(f"cluster {name!r} does not answer at {state.dashboard_url}")
        missing = state.expected_nodes - len(alive)
        if missing <= 0:
            say(f"cluster {name!r} has all its {state.expected_nodes} nodes")
        else:
            _ask_for(scheduler_of(state.scheduler), folder, state, alive, say)
    return state


def _ask_for(
    scheduler: Scheduler, folder: ClusterFolder, state: ClusterState, alive: list[str], say: Callable[[str], None]
) -> None:
    if coming := _coming(scheduler, folder, state, alive):
        say(f"a replacement is on its way already: job {coming}")
        return
    missing = state.expected_nodes - len(alive)
    job_id = _submit(scheduler, folder, state, missing)
    folder.add_helper(job_id)
    say(f"asked {scheduler.title} for {missing} node(s): job {job_id}")


def wait_healed(name: str, say: Callable[[str], None]) -> ClusterState:
    """Wait until the cluster has all its nodes again."""
    deadline, said, folder = time.monotonic() + QUEUE_TIMEOUT, "", ClusterFolder(name)
    observer: Observer | None = None
    while True:
        state = _running(name)
        whole = len(_alive(state) or ()) >= state.expected_nodes
        if whole and state.phase == "ready":
            return state
        line = str(state.problem or "waiting for the nodes")
        if (known := folder.helpers()) and not whole:
            scheduler = scheduler_of(state.scheduler)
            observer = observer or Observer(scheduler)
            line += _standing(scheduler, observer.poll(known[-1]))
        if line != said:
            say(said := line)
        if time.monotonic() > deadline:
            raise ClusterError(f"no replacement after {QUEUE_TIMEOUT / 60:.0f} minutes ({line}); it stays in the queue")
        time.sleep(POLL)


def _standing(scheduler: Scheduler, helper: Job | None) -> str:
    """How the replacement stands. Raises ClusterError where it never comes."""
    if helper is None:
        return ""
    if helper.ended:
        raise ClusterError(f"the replacement, job {helper.id}, ended as {helper.state} ({helper.reason})")
    raise_stuck(scheduler, helper)
    return f"; replacement {helper.state.lower()} ({helper.reason})"


def _running(name: str) -> ClusterState:
    state = read_state(name)
    if state is None or state.phase not in UP:
        raise ClusterError(f"there is no running cluster {name!r} to heal. Start one: make cluster-up NAME={name}")
    return state


def _alive(state: ClusterState) -> list[str] | None:
    """The addresses of the nodes that Ray sees alive; None where the dashboard does not answer."""
    answer = get_json(state.dashboard_url + NODES, token_path(state.name))
    return alive_ips(answer) if answer else None


def _coming(scheduler: Scheduler, folder: ClusterFolder, state: ClusterState, alive: list[str]) -> str | None:
    """The newest job of an earlier `--heal` that waits, or whose nodes have not all joined yet."""
    there = {node.name for node in state.nodes if node.ip in alive}
    jobs = [job for job_id in folder.helpers() if (job := scheduler.job(job_id)) and not job.ended]
    coming = [job.id for job in jobs if job.waits or not there.issuperset(job.nodes)]
    return coming[-1] if coming else None


def _submit(scheduler: Scheduler, folder: ClusterFolder, state: ClusterState, missing: int) -> str:
    request = folder.request()
    site = request.site.model_copy(update={"nodelist": None, "resubmit": 0})
    module = ["cluster.node.replacement", state.name, str(state.job_id)]
    wanted = dataclasses.replace(request, site=site, nodes=missing)
    script = save_script(folder.path / "heal.sh", wanted, module, suffix="-heal")
    own = scheduler.job(str(state.job_id))
    left = own.seconds_left if own else None
    return scheduler.submit(
        script,
        # On shared nodes a scheduler may offer what is free on a node of the cluster, where a second Ray cannot be.
        avoid=[node.name for node in state.nodes],
        minutes=-(-left // 60) if left is not None else None,  # whole ones; it ends with the cluster
    )
