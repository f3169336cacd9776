"""What Kosen asks of a scheduler. One is the file of its name in this folder, which holds `SCHEDULER`: see slurm.py."""

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from cluster import schedulers
from cluster.errors import ClusterError, ProfileError
from cluster.folder.request import Request
from cluster.profile import THIS_MACHINE, Site

DEFAULT = "slurm"  # of a profile that names none
NAME = re.compile(r"[a-z][a-z0-9_]*")  # of a Python file
PATIENCE = 600.0  # seconds without an answer after which a loop gives up; controllers restart, and fail over, in less
# Seconds after which a command that a person waits for says that the scheduler is away. Slurm's own commands try for
# 10 and more before they give up, and a last question without an answer takes 30 more.
SHORT_PATIENCE = 10.0
PAUSE = 5.0  # seconds until a scheduler that did not answer is asked again
SHORT_PAUSE = 2.0  # seconds; the same, where a person waits
UNKNOWN = "UNKNOWN"  # our word for the state of a job whose scheduler says nothing now

# What a job's state means for whoever waits: `held` until a person lets it start, `impossible` until it asks for less;
# `ending` still has its nodes, although nothing of it will run any more.
Stage = Literal["waits", "held", "impossible", "running", "ending", "ended"]


@dataclass(frozen=True, slots=True)
class Job:
    """A scheduler's view of one job."""

    id: str
    state: str  # the scheduler's own word
    reason: str = "None"  # in its own words too: why the job waits, or ended
    nodes: Sequence[str] = ()  # those that it still has
    seconds_left: int | None = None  # until its time limit; None without one, and while it does not run
    stage: Stage = "waits"
    usual: bool = False  # whether the state says no more than the stage
    lost: bool = False  # ended without a fault of its own: for its time limit, a lost node, or a job that came first
    over_time: bool = False  # ended for its time limit

    @property
    def ended(self) -> bool:
        return self.stage == "ended"

    @property
    def ending(self) -> bool:
        return self.stage == "ending"

    @property
    def running(self) -> bool:
        return self.stage == "running"

    @property
    def waits(self) -> bool:
        """Whether it has yet to start, or to resume."""
        return self.stage in ("waits", "held", "impossible")

    @property
    def never_starts(self) -> bool:
        return self.stage == "impossible"

    @property
    def held(self) -> bool:
        return self.stage == "held"

    @property
    def time_left(self) -> str | None:
        """`seconds_left` as days-hours:minutes:seconds."""
        if self.seconds_left is None:
            return None
        days, rest = divmod(max(0, self.seconds_left), 86_400)
        clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
        return f"{days}-{clock}" if days else clock


@dataclass(frozen=True, slots=True)
class NodeState:
    """A scheduler's view of one node."""

    word: str  # the scheduler's own
    usable: bool  # whether a step can start there now


@dataclass(frozen=True, slots=True)
class Allocation:
    """What the job has in which this process runs; None is what the scheduler does not say."""

    job_id: str
    hosts: list[str]  # the first one runs the batch script
    this_host: str  # as the scheduler calls it
    cpus: int | None = None  # on this host
    gpus: int | None = None  # on this host
    memory: int | None = None  # bytes on this host; None means no limit

    @property
    def number(self) -> int:
        """The job's number, which neighbours in the queue do not share."""
        digits = re.findall(r"[0-9]+", self.job_id)
        return int(digits[0]) if digits else 0


@dataclass(frozen=True, slots=True)
class Hints:
    """What a person types, or writes into the profile. {} is a job's id, or a node's name."""

    alive: str  # shows whether the controller answers
    queue: str  # lists one's own jobs
    job: str  # shows a job
    release: str  # lets a held job start
    limits: str  # why a job can never start, and where the limits stand
    leave_out: str  # keeps a node out of the next job


class Step(Protocol):
    """One process on each of some of the job's hosts, running since it was made."""

    @property
    def what(self) -> str:
        """Module and hosts, for messages."""

    @property
    def remarks(self) -> Path:
        """What the scheduler's own commands printed."""

    def poll(self) -> int | None:
        """The step's exit code, the worst of its processes; None while any runs."""

    def terminate(self) -> None:
        """Signals its processes to stop in order, by SIGUSR2 or SIGTERM."""

    def wait(self, deadline: float | None = None) -> None:
        """Wait for its end until `deadline` (time.monotonic), and let go of what has not ended."""


class Scheduler(Protocol):
    """A batch system. Every method may raise ClusterError; what asks the controller raises Silent without an answer."""

    @property
    def name(self) -> str:
        """The file's name, and the value of `scheduler` in a profile and in a state file."""

    @property
    def title(self) -> str:
        """The name that people know."""

    @property
    def hints(self) -> Hints: ...

    @property
    def variables(self) -> Sequence[str]:
        """How the environment variables begin that a process of a job has from the scheduler."""

    def check_site(self, site: Site) -> None:
        """Raise ValueError for a profile that the scheduler would take otherwise than it reads."""

    def advice(self, key: str, value: object) -> str | None:
        """What to write in the place of an unknown key of a profile, or of a value of another type; None: no idea."""

    def check(self, request: Request) -> None:
        """Raise ProfileError for a request that the scheduler would take otherwise than it reads."""

    def script(self, request: Request, module: Sequence[str], *, suffix: str = "") -> str:
        """A batch script that runs `python -m` with `module` on the first of the request's nodes.

        The job's name ends with `suffix`; what it prints goes to `batch_log` of its id. The module gets SIGUSR2 or
        SIGTERM the profile's `grace` before the time limit. A lost node must not end the job, where that can be had.
        """

    def submit(
        self, script: Path, *, after: str | None = None, avoid: Sequence[str] = (), minutes: int | None = None
    ) -> str:
        """Submit a script; the job's id. The job starts after the end of job `after`, where the scheduler can, only if
        it failed; on none of the nodes `avoid`; for `minutes` at most. Raises ProfileError for a refusal, in the
        scheduler's own words."""

    def cancel(self, job_id: str) -> None:
        """End a job; one that is gone already is fine."""

    def signal(self, job_id: str, name: str) -> bool:
        """Send a signal, such as TERM, to the batch script alone; whether the scheduler took it. One that has no
        signals of its own answers False, and the job is cancelled instead."""

    def job(self, job_id: str) -> Job | None:
        """A job; None where the scheduler does not know it, or not any more."""

    def jobs_of(self, folder: Path) -> list[str]:
        """The ids of this user's live jobs whose scripts lie in `folder`, oldest first."""

    def is_job_id(self, text: str) -> bool:
        """Whether a text has the form of a job's id."""

    def node_states(self, names: Sequence[str]) -> Mapping[str, NodeState]:
        """The states of those nodes for which the scheduler reports one."""

    def allocation(self, environ: Mapping[str, str]) -> Allocation:
        """The job that this process belongs to."""

    def step(self, hosts: Sequence[str], module: str, arguments: Sequence[str], *, folder: Path, gpus: int) -> Step:
        """Start `python -m module arguments` once on each of `hosts`, with `gpus` GPUs; each appends what it prints to
        <host>.log in `folder`. A lost host must not end the others."""


class Silent(ClusterError):
    """The scheduler does not answer; the job keeps running all the same."""


class Observer:
    """Looks at jobs for a loop, which a controller that is away for a while must not end."""

    def __init__(self, scheduler: Scheduler, patience: float = PATIENCE) -> None:
        self._scheduler, self._patience = scheduler, patience
        self._answered = time.monotonic()

    def poll(self, job_id: str) -> Job | None:
        """As `job`, with the state UNKNOWN while it is silent. Raises Silent after `patience` seconds of that."""
        try:
            seen = self._scheduler.job(job_id)
        except Silent:
            if time.monotonic() - self._answered > self._patience:
                raise
            return Job(job_id, UNKNOWN, f"{self._scheduler.title} does not answer", usual=True)
        self._answered = time.monotonic()
        return seen

    def ask(self, job_id: str, pause: Callable[[float], None] = time.sleep) -> Job | None:
        """As `job`, asked again while it is silent. Raises Silent after `patience` seconds of that."""
        while (seen := self.poll(job_id)) and seen.state == UNKNOWN:
            pause(PAUSE)
        return seen


def ask_briefly(scheduler: Scheduler, job_id: str) -> Job | None:
    """A job, for a command that a person waits for. Raises Silent after SHORT_PATIENCE."""
    return Observer(scheduler, SHORT_PATIENCE).ask(job_id, lambda _: time.sleep(SHORT_PAUSE))


def scheduler_of(name: str | None) -> Scheduler:
    """The scheduler of that name, as a profile or a state file has it; None is the default.

    Raises ProfileError where this folder has no such file.
    """
    name = name or DEFAULT
    found = _load(name) if NAME.fullmatch(name) else None
    if found is None:
        known = ", ".join([THIS_MACHINE, *(one.name for one in known_schedulers())])
        raise ProfileError(f"scheduler={name!r} is not known. Expected one of {known}")
    return found


@cache
def known_schedulers() -> tuple[Scheduler, ...]:
    """All schedulers of this folder, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(schedulers.__path__))
    return tuple(found for name in names if (found := _load(name)))


def _load(name: str) -> Scheduler | None:
    """What the file of that name has as SCHEDULER; None without one."""
    module = f"{schedulers.__name__}.{name}"
    try:
        found: Scheduler | None = getattr(importlib.import_module(module), "SCHEDULER", None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return None
    return found


def outside_a_job(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what a scheduler gives to a job's processes: MPI, torch and others would believe that
    they run as its tasks."""
    prefixes = tuple(prefix for scheduler in known_schedulers() for prefix in scheduler.variables)
    return {key: value for key, value in environ.items() if not key.startswith(prefixes)}
