"""Stops exactly the processes that a cluster started, however they were re-parented or renamed."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GRACE = 3.0  # seconds from SIGTERM to SIGKILL; runs lie on disk, so nothing in Ray is worth a longer wait


def processes_of(temp_dir: str, head: int = 0, head_started: int = 0) -> set[int]:
    """The live processes that carry `temp_dir` in their environment (RAY_TMPDIR), or belong to the head's session.

    Parents can die, and Ray's agents rename themselves over their own environment where that is short; these stay in
    the session that the head (`head`, started at tick `head_started`) opened. A session whose leader is by now
    another process is left alone. This process and its ancestors are never among them.
    """
    mark = f"RAY_TMPDIR={temp_dir}".encode()
    found = {pid for pid in _all_pids() if mark in _environment(pid)}
    if head and start_time(head) in (0, head_started):
        found |= {pid for pid in _all_pids() if _stat(pid).get("session") == str(head) and is_running(pid)}
    return found - _ancestry(os.getpid())


def end_processes(find: Callable[[], set[int]], first: int | None = None) -> int:
    """SIGTERM, then SIGKILL after a grace, until `find` finds nothing; the number of processes that were stopped.

    `first` gets its signal alone: Ray's head stops its own children in order when it is asked to stop.
    """
    found = find()
    ended = set(found)
    if first in found:
        _signal({first}, signal.SIGTERM)
        _wait_gone(lambda: find() & {first}, GRACE)
        found = _wait_gone(find, 1.0)  # what still runs then will not stop by itself
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(found, number)
        found = _wait_gone(find, GRACE / 2 if found else 0)
    return len(ended)


def is_running(pid: int) -> bool:
    """Whether `pid` lives and is not a zombie."""
    return _stat(pid).get("state", "Z") != "Z"


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot; 0 where there is none. With the pid it names one process."""
    return int(_stat(pid).get("starttime", 0))


def _wait_gone(find: Callable[[], set[int]], seconds: float) -> set[int]:
    deadline = time.monotonic() + seconds
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or another user's
        return []
    return variables if is_running(pid) else []


def _stat(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields = text.rpartition(")")[2].split()  # the name before may hold spaces and parentheses
    return {"state": fields[0], "ppid": fields[1], "session": fields[3], "starttime": fields[19]}


def _ancestry(pid: int) -> set[int]:
    line = set[int]()
    while pid > 0 and pid not in line:
        line.add(pid)
        pid = int(_stat(pid).get("ppid", 0))
    return line
