"""A trainer as a process: started under a guard, waited for, killed with all that it started."""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from cluster.files import locked
from orchestrator.errors import RunLocked
from orchestrator.training.supervision.guard import GRACE, LOCK

KILL_SECONDS = 30.0  # a killed process that reads or writes a network file system ends only when that answers


class TrainerProcess:
    """`python -m <module> <folder>`; leaving the `with` block kills what still runs."""

    def __init__(self, module: str, folder: Path, log: Path, environment: Mapping[str, str]) -> None:
        guard = [sys.executable, "-m", "orchestrator.training.supervision.guard", module, str(folder)]
        with log.open("ab") as stream:
            launcher = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                bufsize=0,  # no answer waits in a buffer, where select does not see it
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
            )
        assert launcher.stdin and launcher.stdout
        self._life_line = launcher.stdin  # closes with this process, however it ends
        self._answers = launcher.stdout
        self._said = self._answers.readline()
        self._group = int(self._said) if self._said else None
        self._ended = False
        launcher.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.kill()
        self._life_line.close()
        self._answers.close()

    def wait(self, seconds: float) -> bool:
        """Wait for the end for at most `seconds`, and return whether it has come."""
        deadline = time.monotonic() + seconds
        while select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(self._answers.fileno(), 100)
            self._said += part
            if not part:
                self._ended = True
                break
        return self._ended

    @property
    def exit_code(self) -> int | None:
        """Negative: the signal that ended it. None where the guard was killed, or the machine could not start one."""
        said = self._said.split()
        return int(said[1]) if len(said) > 1 else None

    def end(self) -> None:
        """SIGTERM, then SIGKILL."""
        self._signal(signal.SIGTERM)
        if not self.wait(GRACE):
            self.kill()

    def kill(self) -> None:
        """Not once the guard has said how it ended: then the guard has done this."""
        if self._ended and self.exit_code is not None:
            return
        self._signal(signal.SIGKILL)
        self.wait(KILL_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        if self._group is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._group, number)


def wait_for_earlier(folder: Path) -> None:
    """Wait until the trainer of a job that was killed has ended; it may still be saving. Raises RunLocked."""
    late = RunLocked(f"a trainer of an earlier job still runs in {folder}. Stop it first")
    with locked(folder / LOCK, GRACE + KILL_SECONDS, late, take=fcntl.lockf):
        pass
