"""Cleans a node up when the process that keeps Ray dies without doing so.

It leaves its parent's session and parentage at once, so that what kills the parent leaves it alone, and reads a pipe
that ends with the parent. Where the scheduler kills by control group, it takes Ray's processes too; what remains is
a folder, which the next node process of this user sweeps.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cluster.machine.processes import end_processes, processes_of
from cluster.machine.temp_dirs import remove_temp_dir


@dataclass(frozen=True, slots=True)
class Watched:
    """A running Ray: its folder, its first process, and when that started (clock ticks since boot)."""

    temp_dir: str
    pid: int
    started: int


class Guard:
    """The parent's side: sets what the guard watches, and releases it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cluster.node.cleanup_guard"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # an open pipe to the scheduler would hold the step
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        self._process.wait()  # it forks, and the fork lives on without a parent

    def watch(self, watched: Watched | None) -> None:
        """From now on `watched` is what must be killed; None: nothing."""
        assert self._process.stdin is not None
        line = [watched.temp_dir, watched.pid, watched.started] if watched else None
        with suppress(BrokenPipeError):  # the guard was killed; the node process still cleans up by itself
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()


def end(watched: Watched, before_removal: Callable[[], object] = lambda: None) -> int:
    """End a Ray and remove its folder; the number of processes ended."""
    count = end_processes(lambda: processes_of(watched.temp_dir, watched.pid, watched.started), first=watched.pid)
    before_removal()
    remove_temp_dir(watched.temp_dir)
    return count


def main() -> None:
    if os.fork():
        os._exit(0)
    watched: Watched | None = None
    for line in sys.stdin:
        values = json.loads(line)
        watched = Watched(*values) if values else None
    if watched:
        end(watched)


if __name__ == "__main__":
    main()
