"""What Kosen asks of Slurm: a batch script, a submission, and views of jobs and nodes. Only Slurm's own commands."""

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError, ProfileError
from cluster.profile import SECRET, Site

COMMAND_TIMEOUT = 30.0  # seconds; a busy controller answers in a few
PATIENCE = 600.0  # seconds without an answer after which a loop gives up; controllers restart, and fail over, in less
PAUSE = 5.0  # seconds until a controller that did not answer is asked again
UNKNOWN = "UNKNOWN"  # our word for the state of a job of which Slurm says nothing now
# What the batch script may take over from the submitting shell. sbatch stores what it is given where others may read.
EXPORT = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ", "SLURM_CONF", "KOSEN_HOME")
ENDED = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
}
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED"}
# Reasons to wait that only another request ends: sbatch takes such a job unless the site enforces its limits.
IMPOSSIBLE = {
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "PartitionConfig",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
}
# --export makes sbatch load the user's login environment on the node, with the keys that a ~/.bash_profile exports.
FORGET_SECRETS = (
    f'for name in $(compgen -e); do [[ ${{name^^}} =~ {SECRET.pattern} ]] && unset "$name"; done 2>/dev/null'
)
# `module` is a function, which a batch job's shell need not have: of Environment Modules, or of Lmod.
FIND_MODULES = (
    'for file in /etc/profile.d/{modules,z00_lmod,lmod}.sh "${LMOD_PKG:-/none}/init/bash"; do '
    'type module >/dev/null 2>&1 && break; [ -r "$file" ] && source "$file"; done'
)
AWAY = ("Unable to contact slurm controller", "Socket timed out", "Connection refused")  # in what a command says


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
        return self.state in ENDED


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
    """Hand a batch script to sbatch; the job's id. Raises ProfileError with sbatch's own words, ClusterError when Slurm
    does not answer."""
    clean = {key: value for key, value in os.environ.items() if key in EXPORT}
    done = _call(["sbatch", "--parsable", *options, str(script)], clean)
    if done.returncode and any(words in done.stderr for words in AWAY):
        raise _away(done.stderr)
    if done.returncode:
        raise ProfileError(f"sbatch refused the job: {_complaint(done.stderr)}. Check the site profile with --dry-run")
    return done.stdout.strip().partition(";")[0]


def cancel(job_id: str) -> None:
    """Ask Slurm to end a job; one that is gone already is fine."""
    _call(["scancel", job_id])


def signal_batch(job_id: str, signal: str) -> bool:
    """Send a signal to the batch script alone; whether Slurm took it."""
    return _call(["scancel", "--batch", f"--signal={signal}", job_id]).returncode == 0


def job(job_id: str) -> Job | None:
    """Slurm's view of a job, None when it has forgotten it (some minutes after its end).

    Raises Silent when Slurm does not answer.
    """
    done = _call(["scontrol", "show", "job", "--oneliner", job_id])
    if done.returncode:
        if "Invalid job id" in done.stderr:
            return None
        raise _away(done.stderr)
    fields = dict(re.findall(r"(\S+?)=(\S*)", done.stdout))
    state = fields.get("JobState", "")
    hosts = fields.get("NodeList", "")
    left = _seconds_left(fields) if state == "RUNNING" else None
    return Job(
        id=job_id,
        state=state,
        reason=fields.get("Reason", "None"),
        nodes=hostnames(hosts) if hosts not in ("", "(null)") else [],
        time_left=left,
    )


def _seconds_left(fields: Mapping[str, str]) -> str | None:
    limit, used = (_seconds(fields.get(key, "")) for key in ("TimeLimit", "RunTime"))
    if limit is None or used is None:
        return None  # unlimited
    days, rest = divmod(max(0, limit - used), 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{clock}" if days else clock


def _seconds(text: str) -> int | None:
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def seconds_left(job_id: str) -> int | None:
    """Seconds until a running job's walltime ends, None where it has no limit or does not run."""
    view = job(job_id)
    if view is None or view.time_left is None:
        return None
    days, _, clock = view.time_left.rpartition("-")
    return _seconds(f"{days or 0}-{clock}")


def hostnames(hostlist: str) -> list[str]:
    """The hosts of a Slurm host list, `osk-gpu[60,62]`, in order; `scontrol` reads every form of them."""
    done = _call(["scontrol", "show", "hostnames", hostlist])
    hosts = done.stdout.split()
    if done.returncode or not hosts or "]" in done.stdout:  # of half a bracket scontrol makes a host
        raise ProfileError(f"{hostlist!r} is no host list that Slurm understands. Expected something like gpu[1-4,7]")
    return hosts


def node_states(nodes: Sequence[str]) -> dict[str, str]:
    """Slurm's state of each node in its short words, with `*` for one that does not answer."""
    if not nodes:
        return {}
    done = _call(["sinfo", "--noheader", "--Node", f"--nodes={','.join(nodes)}", "--format=%N %t"])
    return dict(line.split()[:2] for line in done.stdout.splitlines() if line.strip())


def _away(stderr: str) -> Silent:
    return Silent(f"Slurm does not answer: {_complaint(stderr)}. Is slurmctld up? Try `scontrol ping`")


def _complaint(stderr: str) -> str:
    """What a Slurm command said, without its name and the word error."""
    lines = [re.sub(r"^\w+( error)?: (error: )?", "", line).strip() for line in stderr.splitlines() if line.strip()]
    return "; ".join(line for line in lines if line) or "it said nothing"


def _call(command: list[str], environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    if not shutil.which(command[0]):
        raise ProfileError(
            f"there is no {command[0]} on this machine. Go to a login node of the Slurm cluster, or use SITE=local"
        )
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise Silent(f"`{command[0]}` did not answer within {COMMAND_TIMEOUT:.0f} s. Try `scontrol ping`") from None
