"""Runs a trainer for its supervisor, and kills it with all that it started when the supervisor is gone.

python -m orchestrator.training.supervision.guard MODULE RUN_FOLDER

It leaves the supervisor's process tree: Ray sends a job's stop signal to the whole tree, and a trainer is to save a
checkpoint then, not to end. Both communicate through two pipes: standard input closes when the supervisor is gone;
standard output gets the process group as a line, later the trainer's exit code. What the trainer prints goes to
standard error.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
LOCK = "trainer.lock"  # held while a trainer may still write into the run folder


def main(module: str, folder: str) -> NoReturn:
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGTERM, lambda signum, frame: None)  # not SIG_IGN, which the trainer would inherit
    _tell(os.getpid())
    lock = (Path(folder) / LOCK).open("w")
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    trainer = subprocess.Popen([sys.executable, "-m", module, folder], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    threading.Thread(target=_end_with_supervisor, daemon=True).start()
    _tell(trainer.wait())
    _end_group()


def _tell(number: int) -> None:
    try:
        os.write(sys.stdout.fileno(), f"{number}\n".encode())
    except BrokenPipeError:  # the supervisor is gone
        _end_group()


def _end_with_supervisor() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE)
    _end_group()


def _end_group() -> NoReturn:
    """All that the trainer left behind, and this process."""
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("a process survived its own SIGKILL")


if __name__ == "__main__":
    main(*sys.argv[1:])
