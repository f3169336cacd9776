"""Locks a run folder for its one writer."""

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

from orchestrator.errors import RunLocked, storage_error
from orchestrator.files import RUN_MODE, make_run_folder, mode_like


class Owner(NamedTuple):
    """The job that writes a run: where its driver runs."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """True if this host knows that the driver has ended; another host's drivers count as alive."""
        return self.host == socket.gethostname() and not Path(f"/proc/{self.pid}").exists()


class RunLock:
    """The right to write into a run folder: a POSIX lock that the kernel frees when its holder dies.

    The owner stands in the file as text, for the sentence that refuses the next job. A driver that was killed leaves
    a writer behind that Ray ends within seconds: `patience` seconds are granted for that, and only for that. A folder
    that is not there yet is made, with `mode`.
    """

    def __init__(self, folder: Path, owner: Owner, patience: float = 30, *, mode: int = RUN_MODE) -> None:
        try:
            make_run_folder(folder, mode)
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, mode_like(folder))
        except OSError as error:
            raise storage_error(error, folder) from error
        deadline = time.monotonic() + patience
        while not self._try_lock(folder):
            holder = self._holder()
            if holder is None or not holder.is_gone() or time.monotonic() > deadline:
                os.close(self._file)
                raise RunLocked(
                    f"{folder} is being written by another job ({holder}). Wait for it, stop it, or give another run="
                )
            time.sleep(0.2)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{owner.pid} {owner.host}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._file)

    def _try_lock(self, folder: Path) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            os.close(self._file)
            raise storage_error(error, folder) from error
        return True

    def _holder(self) -> Owner | None:
        pid, _, host = os.pread(self._file, 300, 0).decode(errors="replace").strip().partition(" ")
        return Owner(host, int(pid)) if pid.isdigit() else None
