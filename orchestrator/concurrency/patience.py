"""Waiting for what may hang, a file system or a process that was stopped, so that it is said and Ctrl-C still works.

A system call on a hung NFS server cannot be interrupted. So nothing that touches a run folder runs in the thread that
takes Ctrl-C: that thread waits in short slices, in which Python sees the signal.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from orchestrator.console import say

SLICE = 0.5  # seconds between looks
QUIET = 8.0  # seconds until the wait is said; the bar is 10 s, and a disk that syncs hundreds of MB takes 1 or 2

T = TypeVar("T")


class Wait:
    """Says once that something takes long, and once that it is over."""

    def __init__(self, what: str) -> None:
        self._what, self._begun, self._said = what, time.monotonic(), False

    def look(self) -> None:
        waited = time.monotonic() - self._begun
        if not self._said and waited >= QUIET:
            self._said = True
            say(f"{self._what} has not answered for {waited:.0f} s: its disk or its machine may hang. Waiting for it")

    def over(self) -> None:
        if self._said:
            say(f"{self._what} answers again after {time.monotonic() - self._begun:.0f} s")


def get(pending: Any, what: str) -> Any:
    """`ray.get` without an end; raises what that raises. `what` names whom we wait for."""
    import ray  # a second of imports that commands without a cluster need not wait for
    from ray.exceptions import GetTimeoutError

    wait = Wait(what)
    while True:
        try:
            found = ray.get(pending, timeout=SLICE)
        except GetTimeoutError:
            wait.look()
        else:
            wait.over()
            return found


def attend(work: Callable[[], T], what: str) -> T:
    """What `work` returns or raises, from a thread of its own, which goes on alone if the caller is interrupted."""
    worker = _Worker(work)
    worker.start()
    wait = Wait(what)
    while worker.is_alive():
        worker.join(SLICE)
        if worker.is_alive():
            wait.look()
    wait.over()
    if worker.error:
        raise worker.error
    return worker.found[0]


class _Worker(threading.Thread, Generic[T]):
    """A daemon: a process may end while its last system call hangs."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.found: list[T] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.found.append(self._work())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits, which raises it
            self.error = error
