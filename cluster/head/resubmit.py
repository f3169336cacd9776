"""Takes up the Ray Jobs that a predecessor left unfinished: submitted again under their old names."""

import shlex
import time
from collections.abc import Callable

from cluster.dashboard import get, post_status
from cluster.folder.ledger import Ledger, RayJob
from cluster.state import ClusterState, token_path

AGENT_SECONDS = 60.0  # for each job; the job API refuses submissions until its agent is up


def resubmit(state: ClusterState, ledger: Ledger, cwd: str, pause: Callable[[float], None]) -> dict[str, list[str]]:
    """Submit every unfinished job of the ledger to the cluster of `state`: the ids `resumed`, and those `refused`.

    A job keeps its submission id, its command and its runtime environment. The nodes share a file system, so it runs
    in the folder that it was submitted from: the package that Ray made of that went with the old head. `make submit`
    names the folder in the job's metadata (`working_dir`). Ray does not report it for a plain `ray job submit
    --working-dir .`; such a job runs in `cwd`, where `cluster up` was called, or where `--metadata-json
    '{"working_dir": …}'` says. Resources that an entrypoint asked for are not reported by Ray either.

    `pause(seconds)` waits, and raises when the cluster is to stop.
    """
    done: dict[str, list[str]] = {"resumed": [], "refused": []}
    for job in ledger.unfinished():
        body = _submission(job, job.working_dir or cwd)
        taken = _submit(state, job.submission_id, body, pause)
        done["resumed" if taken else "refused"].append(job.submission_id)
    return done


def _submit(state: ClusterState, submission_id: str, body: dict[str, object], pause: Callable[[float], None]) -> bool:
    """Whether Ray took the job. A 4xx is final; silence and a 5xx pass when its agent is up."""
    url, token = f"{state.dashboard_url}/api/jobs/", token_path(state.name)
    deadline = time.monotonic() + AGENT_SECONDS
    while (status := post_status(url, token, body)) is None or status >= 500:
        if time.monotonic() > deadline:
            break
        pause(0.5)
    if status is not None and status < 400:
        return True
    return get(f"{url}{submission_id}", token) is not None  # an earlier try arrived, and only its answer was lost


def _submission(job: RayJob, folder: str) -> dict[str, object]:
    """What Ray's job API takes; the command as it first was goes along for the successor's successor."""
    return {
        "entrypoint": f"cd {shlex.quote(folder)} && {job.entrypoint}",
        "submission_id": job.submission_id,
        "runtime_env": job.runtime_env,
        "metadata": {"working_dir": folder, "entrypoint": job.entrypoint},
    }
