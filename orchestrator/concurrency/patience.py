"""Waits for what may hang, a file system or a stopped process, so that it is reported and Ctrl-C still works.

A system call on a hung NFS server cannot be interrupted. So nothing that touches a run folder runs in the thread that
takes Ctrl-C: that thread waits in short slices, in which Python sees the signal.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from orchestrator.console import say

SLICE = 0.5  # seconds between polls
LEAVE = 2.0  # seconds for work that is interrupted to take back what it wrote by half
QUIET = 8.0  # seconds until the wait is reported; the bar is 10 s, and a disk that syncs hundreds of MB takes 1 or 2

T = TypeVar("T")


class Wait:
    """Says once that something does nothing for long, and once that this is over."""

    def __init__(self, what: str) -> None:
        self._what, self._since, self._said, self._done = what, time.monotonic(), False, 0.0

    def poll(self, done: float = 0.0) -> None:
        """`done`: any measure of what was done so far. What makes progress does not hang, however long it takes."""
        if done != self._done:
            self.over()
            self._done, self._since = done, time.monotonic()
        waited = time.monotonic() - self._since
        if not self._said and waited >= QUIET:
            self._said = True
            say(f"{self._what} has not answered for {waited:.0f} s: its disk or its machine may hang. Waiting for it")

    def over(self) -> None:
        if self._said:
            self._said = False
            say(f"{self._what} answers again after {time.monotonic() - self._since:.0f} s")


def get(pending: Any, what: str) -> Any:
    """`ray.get` without an end; raises what that raises. `what` names whom we wait for."""
    import ray  # a second of imports that commands without a cluster need not wait for
    from ray.exceptions import GetTimeoutError

    wait = Wait(what)
    while True:
        try:
            found = ray.get(pending, timeout=SLICE)
        except GetTimeoutError:
            wait.poll()
        else:
            wait.over()
            return found


def attend(work: Callable[[], T], what: str, stop: Callable[[], object] | None = None) -> T:
    """What `work` returns or raises, from a thread of its own, which keeps running alone if the caller is interrupted.

    `stop` asks `work` to stop then, and it has a moment to clean up. Work that uses a CPU is not reported as hung.
    """
    worker = _Worker(work)
    worker.start()
    wait = Wait(what)
    try:
        while not worker.over.wait(SLICE):
            wait.poll(worker.cpu_seconds())
    except KeyboardInterrupt:
        if stop:
            stop()
            worker.over.wait(LEAVE)
        raise
    wait.over()
    if worker.error:
        raise worker.error
    return worker.found[0]


class _Worker(threading.Thread, Generic[T]):
    """A daemon: a process may end while its last system call hangs."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._clock: int | None = None
        self.over = threading.Event()  # a `join` that is interrupted takes the thread for ended
        self.found: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        self._clock = time.pthread_getcpuclockid(threading.get_ident())
        try:
            self.found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits, which raises it
            self.error = error
        finally:
            self.over.set()

    def cpu_seconds(self) -> float:
        """0 before its begin and after its end."""
        try:
            return 0.0 if self._clock is None else time.clock_gettime(self._clock)
        except OSError:
            return 0.0
