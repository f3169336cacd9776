"""Private temporary folders of Ray on one host: short, known by their names, swept when their keeper is gone."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from cluster.processes import end_processes, processes_of

LOCK = "kept"  # the file in a folder that its keeper holds locked; the kernel frees it with the keeper
RAY = "r"  # the folder in it that Ray gets: Ray opens what it is given to everybody (0777), so nobody may get there


def new_temp_dir(root: str, job_id: str) -> tuple[str, IO[str]]:
    """Ray's folder inside one of mode 0700 under `root`, and the lock that marks it as in use.

    Its path is short: a Unix socket's may have 107 bytes, and Ray adds 62 for session and socket names.
    """
    path = make_temp_dir(root, f"{_prefix()}{job_id}-")
    return path, _lock(Path(path).parent)


def make_temp_dir(root: str, prefix: str) -> str:
    """Ray's folder inside a new one of mode 0700 under `root`."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    (folder / RAY).mkdir(mode=0o700)
    return str(folder / RAY)


def sweep(root: str) -> list[str]:
    """End and remove what this user's killed node processes left under `root`; the folders' names."""
    swept = []
    for path in Path(root).glob(f"{_prefix()}*"):
        with suppress(OSError):  # somebody keeps it, or it is another user's
            lock = _lock(path)
            end_processes(lambda mark=str(path / RAY): processes_of(mark))  # type: ignore[misc]
            remove_temp_dir(str(path / RAY))
            lock.close()
            swept.append(path.name)
    return swept


def remove_temp_dir(path: str) -> None:
    """Remove what `new_temp_dir` made, given the path that it returned."""
    if Path(path).name == RAY:
        shutil.rmtree(Path(path).parent, ignore_errors=True)


def _prefix() -> str:
    return f"kosen-{os.getuid()}-"


def _lock(folder: Path) -> IO[str]:
    """Raises BlockingIOError when somebody keeps the folder."""
    file = (folder / LOCK).open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file
