"""Signs of life of the batching actors: a process that was stopped, or hangs in a system call, ends no connection.

Each actor reports to the run's writer every BEAT seconds what it has under way. The writer counts the seconds in which
it received nothing; seconds in which the writer itself did not run do not count. The driver kills an actor that
had work and was silent for SILENT seconds: Ray Data starts another, which asks the writer what is left.
"""

import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple, Protocol

import psutil
import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.records.types import Stage

BEAT = 5.0  # seconds
# Seconds. A link that was cut for 40 is waited for; Ray gives a node that does not answer up about then, and restarts
# what ran there by itself.
SILENT = 60
END_SECONDS = 20.0  # for a process to be killed on its node


class Life(NamedTuple):
    """One process of an actor; two with the same pid differ in when they began."""

    node: str  # Ray's id
    pid: int
    began: float

    @classmethod
    def of_this_process(cls) -> "Life":
        return cls(str(ray.get_runtime_context().get_node_id()), os.getpid(), psutil.Process().create_time())


class Beat(NamedTuple):
    """What an actor reports."""

    life: Life
    stage: Stage
    busy: bool  # has rows in work
    in_flight: int  # requests
    heard: int  # responses of any kind, since its start


class Traffic(NamedTuple):
    """A stage's requests, over all actors."""

    in_flight: int
    heard: int


class Pulses:
    """The writer's memory of what the actors reported."""

    def __init__(self) -> None:
        self._last: dict[Life, Beat] = {}
        self._silence: dict[Life, int] = {}  # seconds

    def add(self, beat: Beat) -> None:
        self._last[beat.life] = beat
        self._silence[beat.life] = 0

    def tick(self) -> None:
        """A second has passed for the writer."""
        for life in self._silence:
            self._silence[life] += 1

    def silent(self, seconds: int) -> list[Beat]:
        """The last beats of actors that had rows in work and sent none for `seconds`."""
        return [beat for life, beat in self._last.items() if beat.busy and self._silence[life] >= seconds]

    def forgive(self, life: Life) -> None:
        """It was killed. Should it run on all the same, it counts as silent again only after a while."""
        self._silence[life] = 0
        self._last[life] = self._last[life]._replace(busy=False, in_flight=0)

    def traffic(self) -> dict[Stage, Traffic]:
        found: dict[Stage, Traffic] = {}
        for beat in self._last.values():
            before = found.get(beat.stage, Traffic(0, 0))
            found[beat.stage] = Traffic(before.in_flight + beat.in_flight, before.heard + beat.heard)
        return found


class RequestCounts(Protocol):
    """What a client reports of its requests."""

    @property
    def in_flight(self) -> int: ...
    @property
    def heard(self) -> int: ...  # responses of any kind, since its start


class Heart:
    """Sends beats for one actor as long as it has rows in work, and once more when it has none.

    In a thread: an event loop may be busy for a minute, with the judging of many answers by rule for example.
    """

    def __init__(self, writer: ActorHandle, stage: Stage, client: RequestCounts | None) -> None:
        self._writer, self._stage, self._client = writer, stage, client
        self._life = Life.of_this_process()
        self._hands = 0  # blocks
        self._lock = threading.Lock()  # Ray keeps the order in which one process calls
        self._thread: threading.Thread | None = None

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Inside the block rows are in work; several blocks may run at once."""
        with self._lock:
            self._hands += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat_on, name="heart", daemon=True)
            self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._hands -= 1
                last = None if self._hands else self._beat()
            if last is not None:
                with suppress(RayError):  # the writer is gone: the next record cannot be sent, which is reported there
                    await last

    def _beat_on(self) -> None:
        while True:
            with self._lock:
                if self._hands:
                    self._beat()
            time.sleep(BEAT)

    def _beat(self) -> ray.ObjectRef:
        in_flight, heard = (self._client.in_flight, self._client.heard) if self._client else (0, 0)
        beat = Beat(self._life, self._stage, self._hands > 0, in_flight, heard)
        told: ray.ObjectRef = self._writer.beat.remote(beat)
        return told


def end_process(life: Life) -> bool:
    """End an actor's process where it is; whether it was still there. Raises RayError where its node cannot be reached.

    Not `ray.kill`, which asks the process itself. SIGKILL reaches one that was stopped, and one that waits for NFS.
    """
    there = NodeAffinitySchedulingStrategy(life.node, soft=False)
    ended = _end.options(scheduling_strategy=there).remote(life)
    try:
        return bool(ray.get(ended, timeout=END_SECONDS))
    except GetTimeoutError:
        ray.cancel(ended)
        return False


@ray.remote(num_cpus=0, max_retries=0)
def _end(life: Life) -> bool:
    try:
        process = psutil.Process(life.pid)
        if abs(process.create_time() - life.began) > 1.0:  # the pid is another's by now; clocks are adjusted, by less
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True
