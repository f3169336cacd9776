"""Steps of a batch job: one process on each of some of its nodes, started by commands of the scheduler."""

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

STOP_SECONDS = 12.0  # a node needs about 5 to stop its Ray; a slower one is left to the scheduler


class LaunchedStep:
    """A step whose tasks live as long as `launchers` do, the commands that start them: srun, qrsh, pbsdsh or ssh.

    What these print themselves is appended to `remarks`. They pass `stop_signal` on to their tasks.
    """

    def __init__(
        self,
        what: str,
        launchers: Sequence[Sequence[str]],
        *,
        remarks: Path,
        stop_signal: signal.Signals = signal.SIGUSR2,
    ) -> None:
        self.what, self.remarks, self._stop_signal = what, remarks, stop_signal
        with remarks.open("ab") as output:
            self._processes = [
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
                for command in launchers
            ]

    def poll(self) -> int | None:
        """The step's exit code, the worst of its parts, None while any runs."""
        codes = [process.poll() for process in self._processes]
        return None if None in codes else max(abs(code or 0) for code in codes)

    def terminate(self) -> None:
        """Signals its processes to stop."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(self._stop_signal)

    def wait(self, deadline: float | None = None) -> None:
        """Wait for its end until `deadline` (time.monotonic); what has not ended is left to the scheduler."""
        deadline = time.monotonic() + STOP_SECONDS if deadline is None else deadline
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
