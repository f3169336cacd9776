"""What Kosen asks of Slurm: a batch script, a submission, and views of jobs and nodes. Only Slurm's own commands."""

import os
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster import keys
from cluster.errors import ClusterError, ProfileError
from cluster.profile import Site
from cluster.schedulers import slurm_states, slurm_text

COMMAND_TIMEOUT = 30.0  # seconds; a busy controller answers in a few
PATIENCE = 600.0  # seconds without an answer after which a loop gives up; controllers restart, and fail over, in less
# Seconds after which a command that somebody sits before says that the controller is away. Slurm's own commands try for
# 10 and more before they give up, and a last question that nobody answers takes COMMAND_TIMEOUT more.
SHORT_PATIENCE = 10.0
PAUSE = 5.0  # seconds until a controller that did not answer is asked again
SHORT_PAUSE = 2.0  # the same, where somebody sits before it
SHOWN = 600  # characters of what a command printed, in a message
UNKNOWN = "UNKNOWN"  # our word for the state of a job of which Slurm says nothing now
# What the batch script may take over from the submitting shell. sbatch stores what it is given where others may read.
EXPORT = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ", "SLURM_CONF", "KOSEN_HOME")
# --export makes sbatch load the user's login environment on the node, with the keys that a ~/.bash_profile exports.
FORGET_SECRETS = (
    f'for name in $(compgen -e); do [[ ${{name^^}} =~ {keys.NAME.pattern} ]] && unset "$name"; done 2>/dev/null'
)
# `module` is a function, which a batch job's shell need not have: of Environment Modules, or of Lmod.
FIND_MODULES = (
    'for file in /etc/profile.d/{modules,z00_lmod,lmod}.sh "${LMOD_PKG:-/none}/init/bash"; do '
    'type module >/dev/null 2>&1 && break; [ -r "$file" ] && source "$file"; done'
)


@dataclass(frozen=True, slots=True)
class Job:
    """Slurm's view of one job."""

    id: str
    state: str  # PENDING, RUNNING, …
    reason: str  # why it waits, or ended
    nodes: list[str]  # those that it still has
    time_left: str | None  # days-hours:minutes:seconds

    @property
    def ended(self) -> bool:
        return self.state in slurm_states.ENDED

    @property
    def ending(self) -> bool:
        """Whether nothing of it will run any more, although it still has its nodes."""
        return self.state in slurm_states.ENDING

    @property
    def running(self) -> bool:
        return self.state in slurm_states.RUNNING

    @property
    def waits(self) -> bool:
        """Whether it has yet to start, or to go on."""
        return not (self.running or self.ending or self.ended)

    @property
    def never_starts(self) -> bool:
        return self.waits and slurm_states.never_starts(self.reason)

    @property
    def held(self) -> bool:
        """Whether it waits for somebody who lets it start."""
        return self.waits and slurm_states.is_held(self.state, self.reason)


class Silent(ClusterError):
    """Slurm does not answer; the job goes on all the same."""


class Observer:
    """Looks at jobs for a loop, which a controller that is away for a while must not end."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._answered = time.monotonic()

    def look(self, job_id: str) -> Job | None:
        """As `job`, with the state UNKNOWN while Slurm is silent. Raises Silent after `patience` seconds of that."""
        try:
            seen = job(job_id)
        except Silent:
            if time.monotonic() - self._answered > self._patience:
                raise
            return Job(job_id, UNKNOWN, "Slurm does not answer", nodes=[], time_left=None)
        self._answered = time.monotonic()
        return seen

    def ask(self, job_id: str, pause: Callable[[float], None] = time.sleep) -> Job | None:
        """As `job`, asked again while Slurm is silent. Raises Silent after `patience` seconds of that."""
        while (seen := self.look(job_id)) and seen.state == UNKNOWN:
            pause(PAUSE)
        return seen


def batch_script(site: Site, *, name: str, nodes: int, output: Path, command: Sequence[str], root: Path) -> str:
    """A batch script that sets the site's environment up and then becomes `command`; `root` holds our packages."""
    options = [f"#SBATCH {option}" for option in _options(site, name, nodes, output)]
    return "\n".join(["#!/bin/bash", *options, *_setup(site, root), f"exec {shlex.join(command)}", ""])


def _options(site: Site, name: str, nodes: int, output: Path) -> list[str]:
    wanted = {
        "job-name": f"kosen-{name}",
        "partition": site.partition,
        "account": site.account,
        "nodelist": site.nodelist,
        "nodes": nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": site.cpus_per_node,
        "gpus-per-node": site.gpus_per_node or None,
        "mem": site.memory,
        "time": site.time,
        "signal": f"B:USR2@{site.grace}",  # only to the batch script; not USR1, which NCCL takes for itself
        "export": ",".join(EXPORT),
        "output": output,
    }
    flags = ["exclusive"] if site.exclusive else []
    # A lost node shrinks the job instead of ending it; a job that starts anew by itself would not know what was done.
    flags += ["no-kill", "no-requeue"]
    return [f"--{key}={shlex.quote(str(value))}" for key, value in wanted.items() if value is not None] + [
        *(f"--{flag}" for flag in flags),
        *site.sbatch,
    ]


def _setup(site: Site, root: Path) -> list[str]:
    lines = [FORGET_SECRETS]
    if site.modules:
        lines += [FIND_MODULES, "module purge", _or_end(f"module load {shlex.join(site.modules)}")]
    if site.conda:
        lines += ['source "$(conda info --base)/etc/profile.d/conda.sh"']
        lines += [_or_end(f"conda activate {shlex.quote(site.conda)}")]
    if site.venv:
        lines += [_or_end(f"source {shlex.quote(str(Path(site.venv).expanduser() / 'bin' / 'activate'))}")]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in site.env.items()]
    return [*lines, f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}"]


def _or_end(command: str) -> str:
    said = shlex.quote(f"error: `{command}` of the site profile failed on this node:")
    return f'{command} || {{ echo {said} "$(hostname)" >&2; exit 4; }}'


def submit(script: Path, *options: str) -> str:
    """Hand a batch script to sbatch; the job's id, which is a number.

    A controller that is away is asked again for SHORT_PATIENCE seconds. Raises ProfileError with sbatch's own words
    where it refuses the job, Silent when Slurm does not answer, ClusterError where nobody can tell which job it is:
    then sbatch's output names none for certain, and Slurm's queue has none of this submission either.
    """
    mark = "" if _has_comment(script) else f"kosen-{secrets.token_hex(6)}"
    marked = [f"--comment={mark}"] if mark else []
    command = ["sbatch", "--parsable", *marked, *options, str(script)]
    clean = {key: value for key, value in os.environ.items() if key in EXPORT}
    deadline = time.monotonic() + SHORT_PATIENCE
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
        f"sbatch said nothing that is certainly a job's id, and the queue has no job of {script}. It said: "
        f"{_shown(done)}. Look with `squeue --me`, and end with scancel what should not be there"
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
        time.sleep(SHORT_PAUSE)
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
    """Ask Slurm to end a job; one that is gone already is fine. Raises Silent when Slurm does not answer."""
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
        raise ClusterError(f"{job_id!r} is no id of a job")
    done = _call(["scontrol", "show", "job", "--oneliner", job_id])
    fields = slurm_text.job_fields(done.stdout, job_id)
    if fields is None and slurm_text.is_unknown_job(_said(done)):
        return None
    if not fields or not fields.get("JobState"):
        raise _away(done)
    state = fields["JobState"]
    hosts = fields.get("NodeList", "")
    return Job(
        id=job_id,
        state=state,
        reason=fields.get("Reason", "None"),
        nodes=hostnames(hosts) if hosts not in ("", "(null)") else [],
        time_left=slurm_text.time_left(fields) if state in slurm_states.RUNNING else None,
    )


def seconds_left(job_id: str) -> int | None:
    """Seconds until a running job's walltime ends, None where it has no limit or does not run."""
    view = job(job_id)
    if view is None or view.time_left is None:
        return None
    days, _, clock = view.time_left.rpartition("-")
    return slurm_text.seconds(f"{days or 0}-{clock}")


def hostnames(hostlist: str) -> list[str]:
    """The hosts of a Slurm host list, `osk-gpu[60,62]`, in order; `scontrol` reads every form of them.

    Where it has its configuration from a controller that is away, it is asked again for SHORT_PATIENCE seconds.
    Raises ProfileError for what is no host list, Silent.
    """
    if hosts := slurm_text.plain_hosts(hostlist):
        return hosts
    deadline = time.monotonic() + SHORT_PATIENCE
    while slurm_text.is_host_list(hostlist):
        done = _call(["scontrol", "show", "hostnames", hostlist])
        if hosts := slurm_text.hosts_of(hostlist, done.stdout):
            return hosts
        if not slurm_text.is_away(_said(done)):
            break
        if time.monotonic() > deadline:
            raise _away(done)
        time.sleep(SHORT_PAUSE)
    raise ProfileError(f"{hostlist!r} is no host list that Slurm understands. Expected something like gpu[1-4,7]")


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
