"""The driver's side of the run's writer: to start it, to call it without hanging with it, and to close it."""

import atexit
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.concurrency import patience
from orchestrator.console import say
from orchestrator.errors import cause_of
from orchestrator.files import RUN_MODE
from orchestrator.records.lock import Owner
from orchestrator.records.writer import RecordWriter

CLOSE_SECONDS = 2.0  # for the writer, when Ctrl-C is pressed


@contextmanager
def open_writer(folder: Path, mode: int = RUN_MODE) -> Iterator[ActorHandle]:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    writer = RecordWriter.options(scheduling_strategy=here).remote(str(folder))  # type: ignore[attr-defined]
    owner = Owner(socket.gethostname(), os.getpid())
    pid, opened = _wait(writer.pid.remote(), "Ray, which starts the run's writer,"), False
    try:
        for repair in call(writer.open, owner, mode):
            say(f"{folder.name}: {repair}")
        opened = True
        yield writer
    except KeyboardInterrupt:
        _close_now(writer, pid)
        raise
    except BaseException:
        if opened:
            call(writer.close)
        raise
    call(writer.close)


def _close_now(writer: ActorHandle, pid: int) -> None:
    """Close a writer that may hang; what it has appended is in the kernel's hands already."""
    try:
        ray.get(writer.close.remote(), timeout=CLOSE_SECONDS)
    except RayError:
        # Not yet: the stages' threads, which wait for it, would wake, and what they then ask of a Ray that is being
        # left ends this process without a message.
        atexit.register(_end, pid)


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def call(method: Any, *args: Any) -> Any:
    """Call the writer and wait; its KosenErrors are raised as themselves. One that hangs is reported."""
    return _wait(method.remote(*args), "the run's writer")


def _wait(pending: Any, what: str) -> Any:
    try:
        return patience.get(pending, what)
    except RayError as error:
        raise cause_of(error) from None
