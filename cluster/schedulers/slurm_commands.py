"""Slurm's own commands: a submission, and views of jobs and nodes."""

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cluster.errors import ClusterError, ProfileError
from cluster.schedulers import base, slurm_states, slurm_text
from cluster.schedulers.base import Job, Silent
from cluster.schedulers.slurm_script import EXPORT

COMMAND_TIMEOUT = 30.0  # seconds; a busy controller answers in a few
SHOWN = 600  # characters of what a command printed, in a message


def submit(script: Path, *options: str) -> str:
    """Hand a batch script to sbatch; the job's id, which is a number.

    A controller that is away is asked again for SHORT_PATIENCE seconds. Raises ProfileError with sbatch's own words
    where it refuses the job, Silent when Slurm does not answer, ClusterError where the job cannot be identified:
    then sbatch's output names none for certain, and Slurm's queue has none of this submission either.
    """
    mark = "" if _has_comment(script) else f"kosen-{secrets.token_hex(6)}"
    marked = [f"--comment={mark}"] if mark else []
    command = ["sbatch", "--parsable", *marked, *options, str(script)]
    clean = {key: value for key, value in os.environ.items() if key in EXPORT}
    deadline = time.monotonic() + base.SHORT_PATIENCE
    while (done := _call(command, clean)).returncode and slurm_text.is_away(_said(done)):
        # It may have the job, and only its answer is lost: a second one would take as many nodes again.
        if found := _search(mark, script, deadline, done):
            return found
    job_id = slurm_text.submitted_id(done.stdout, done.stderr)
    if job_id and not done.returncode:
        return job_id
    found = None
    if not done.returncode or done.stdout.strip():  # a wrapper may fail after sbatch has done its work
        with suppress(Silent):
            found = _find(mark, script)
    if found:
        return found
    if done.returncode:
        raise ProfileError(f"sbatch refused the job: {_complaint(done)}. Check the site profile with --dry-run")
    raise ClusterError(
        f"sbatch printed no certain job id, and the queue has no job of {script}. It printed: "
        f"{_shown(done)}. Check `squeue --me`, and cancel what should not be there with scancel"
    )


def _has_comment(script: Path) -> bool:
    """Whether the site profile gives the job a comment of its own, which stays."""
    try:
        return re.search(r"^#SBATCH .*--comment", script.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (OSError, UnicodeDecodeError):
        return False


def _search(mark: str, script: Path, deadline: float, done: "subprocess.CompletedProcess[str]") -> str | None:
    """What `_find` finds, as soon as the controller answers again. Raises Silent after `deadline`."""
    while True:
        if time.monotonic() > deadline:
            raise _away(done)
        time.sleep(base.SHORT_PAUSE)
        with suppress(Silent):
            return _find(mark, script)


def _find(mark: str, script: Path) -> str | None:
    """The job of a submission, by the comment that it was given, else as the only one that lives of its script."""
    rows = _queue()
    if mark:
        ids = [row.id for row in rows if row.comment == mark]
    else:
        ids = [row.id for row in rows if row.command == str(script) and row.state not in slurm_states.ENDED]
    return ids[0] if len(ids) == 1 else None


def jobs_of(folder: Path) -> list[str]:
    """The ids of this user's live jobs whose batch scripts lie in `folder`, oldest first. Raises Silent."""
    rows = [row for row in _queue() if row.command.startswith(f"{folder}/") and row.state not in slurm_states.ENDED]
    return sorted((row.id for row in rows), key=int)


def _queue() -> list[slurm_text.Queued]:
    if not shutil.which("squeue"):
        return []
    done = _call(["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%A|%T|%k|%o"])
    if done.returncode:
        raise _away(done)
    return slurm_text.queue(done.stdout)


def cancel(job_id: str) -> None:
    """Asks Slurm to cancel a job; one that is gone already is fine. Raises Silent when Slurm does not answer."""
    done = _call(["scancel", job_id])
    if done.returncode and slurm_text.is_away(_said(done)):
        raise _away(done)


def signal_batch(job_id: str, signal: str) -> bool:
    """Send a signal to the batch script alone; whether Slurm took it."""
    return _call(["scancel", "--batch", f"--signal={signal}", job_id]).returncode == 0


def job(job_id: str) -> Job | None:
    """Slurm's view of a job, None when it has forgotten it (some minutes after its end).

    Raises Silent when Slurm does not answer, or not with that job.
    """
    if not slurm_text.JOB_ID.fullmatch(job_id):
        raise ClusterError(f"{job_id!r} is not a job's id")
    done = _call(["scontrol", "show", "job", "--oneliner", job_id])
    fields = slurm_text.job_fields(done.stdout, job_id)
    if fields is None and slurm_text.is_unknown_job(_said(done)):
        return None
    if not fields or not fields.get("JobState"):
        raise _away(done)
    hosts = fields.get("NodeList", "")
    nodes = hostnames(hosts) if hosts not in ("", "(null)") else []
    return slurm_states.job(job_id, fields["JobState"], fields.get("Reason", "None"), nodes, fields)


def hostnames(hostlist: str) -> list[str]:
    """The hosts of a Slurm host list, `osk-gpu[60,62]`, in order; `scontrol` reads every form of them.

    Where it has its configuration from a controller that is away, it is asked again for SHORT_PATIENCE seconds.
    Raises ProfileError for what is not a host list, Silent.
    """
    if hosts := slurm_text.plain_hosts(hostlist):
        return hosts
    deadline = time.monotonic() + base.SHORT_PATIENCE
    while slurm_text.is_host_list(hostlist):
        done = _call(["scontrol", "show", "hostnames", hostlist])
        if hosts := slurm_text.hosts_of(hostlist, done.stdout):
            return hosts
        if not slurm_text.is_away(_said(done)):
            break
        if time.monotonic() > deadline:
            raise _away(done)
        time.sleep(base.SHORT_PAUSE)
    raise ProfileError(f"{hostlist!r} is not a host list that Slurm understands. Expected something like gpu[1-4,7]")


def node_states(nodes: Sequence[str]) -> dict[str, str]:
    """Slurm's state of each node in its short words, with `*` for one that does not answer."""
    if not nodes:
        return {}
    done = _call(["sinfo", "--noheader", "--Node", f"--nodes={','.join(nodes)}", "--format=%N %t"])
    return slurm_text.node_states(nodes, done.stdout)


def _away(done: "subprocess.CompletedProcess[str]") -> Silent:
    return Silent(f"Slurm does not answer: {_complaint(done)}. Is slurmctld up? Try `scontrol ping`")


def _complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """What a Slurm command said, without its name and the word error; a wrapper may say it on standard output."""
    return slurm_text.sentence((done.stderr if done.stderr.strip() else done.stdout).splitlines())[:SHOWN]


def _shown(done: "subprocess.CompletedProcess[str]") -> str:
    return repr(slurm_text.plain(_said(done)).strip()[:SHOWN])


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return f"{done.stdout}\n{done.stderr}"


def _call(command: list[str], environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """The command, ended. One that does not answer in time ends with 124, as under `timeout`, and says so."""
    if not shutil.which(command[0]):
        raise ProfileError(
            f"there is no {command[0]} on this machine. Go to a login node of the Slurm cluster, or use SITE=local"
        )
    try:
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,  # a wrapper that asks something gets no answer
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # of a banner
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        silence = f"`{command[0]}` did not answer within {COMMAND_TIMEOUT:.0f} s"
        return subprocess.CompletedProcess(command, 124, "", silence)
