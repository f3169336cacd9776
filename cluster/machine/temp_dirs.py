"""Private temporary folders of Ray on one host: short, known by their names, removed when their owner is gone."""

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

from cluster.machine.processes import end_processes, processes_of

MARK = "kosen"  # the file in a folder that says, by the folder's own path, that we made it: nothing else is removed
LOCK = "kept"  # this file is locked by the owning process; the kernel releases it when the process dies
RAY = "r"  # the folder in it that Ray gets: Ray makes it world-writable (0777), so no other user may get there


def new_temp_dir(root: str, job_id: str) -> tuple[str, IO[str]]:
    """Ray's folder inside one of mode 0700 under `root`, and the lock that marks it as in use.

    Its path is short: a Unix socket's may have 107 bytes, and Ray adds 62 for session and socket names.
    """
    path = make_temp_dir(root, f"{_prefix()}{job_id}-")
    return path, _lock(Path(path).parent)


def make_temp_dir(root: str, prefix: str) -> str:
    """Ray's folder inside a new one of mode 0700 under `root`."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    (folder / MARK).write_text(str(folder), encoding="utf-8")
    (folder / RAY).mkdir(mode=0o700)
    return str(folder / RAY)


def sweep(root: str) -> list[str]:
    """End and remove what this user's killed node processes left under `root`; the folders' names."""
    swept = []
    for path in Path(root).glob(f"{_prefix()}*"):
        with suppress(OSError):  # a process keeps it, or it is another user's
            if not _is_ours(path):
                continue
            lock = _lock(path)
            end_processes(lambda mark=str(path / RAY): processes_of(mark))  # type: ignore[misc]
            remove_temp_dir(str(path / RAY))
            lock.close()
            swept.append(path.name)
    return swept


def remove_temp_dir(path: str) -> bool:
    """Remove what `make_temp_dir` made, given the path that it returned; False where something else is there.

    A stale state file may name any folder by now; only one that carries our mark goes.
    """
    folder = Path(path).parent
    if Path(path).name == RAY and _is_ours(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return True
    return not os.path.lexists(path)


def _is_ours(folder: Path) -> bool:
    """Whether `make_temp_dir` made it for this user: a folder, no link to one, with its own path as the mark in it."""
    try:
        status = folder.lstat()
        marked = (folder / MARK).read_text(encoding="utf-8") == str(folder)
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and marked


def _prefix() -> str:
    return f"kosen-{os.getuid()}-"


def _lock(folder: Path) -> IO[str]:
    """Raises BlockingIOError when a process keeps the folder."""
    file = (folder / LOCK).open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise
    return file
