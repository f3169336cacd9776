"""Files of run folders: paths, who may read them, and writing them whole. A run folder holds an exam's questions and
answers, and lies on a disk that many users share.

The folder has the mode that the site's profile gives (`run_mode`), else 0700. One that exists keeps what its owner gave
it. A file is as open as the folder it is in.
"""

import datetime
import os
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import SpecError, storage_error

RUN_MODE = 0o700
NAME_BYTES = 255  # of a file's name, on every file system that we know of
PATH_BYTES = 4095  # of a path, on Linux


def make_run_folder(folder: Path, mode: int = RUN_MODE) -> None:
    """Make it with `mode`, whatever the umask; folders above it are made as usual. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=mode)
    except FileExistsError:
        folder.mkdir(exist_ok=True)  # raises where it is a file
    else:
        folder.chmod(mode)


def mode_like(folder: Path) -> int:
    """The mode of a new file in `folder`; the umask still counts."""
    return folder.stat().st_mode & 0o666


def as_open_as_its_folder(path: str, flags: int) -> int:
    """An `opener` for `open`."""
    return os.open(path, flags, mode_like(Path(path).parent))


def write_as_open_as(folder: Path) -> None:
    """All that this process writes from now on is as open as `folder`: for a command that only writes results there."""
    os.umask(os.umask(0o777) | (0o777 & ~folder.stat().st_mode))


def write_atomic(path: Path, text: str) -> None:
    """Write a small file so that a reader never sees half of it. Raises StorageFailed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8", opener=as_open_as_its_folder) as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # of a folder that is a file
            temporary.unlink()
        raise storage_error(error, path) from error


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond, as run folders write it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def expanded(text: str | Path) -> Path:
    """The path, with the home folder that ~ or ~user stands for. Raises SpecError for what cannot be a path here."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0]
        raise SpecError(f"{text} is not a valid path: there is no home folder {user}. Give an absolute path") from None
    name = os.fsencode(path)
    if b"\0" in name or len(name) > PATH_BYTES or max(map(len, name.split(b"/"))) > NAME_BYTES:
        shown = str(text).replace("\0", "?")
        raise SpecError(f"{shown[:100]}… is not a valid path: it is too long, or has a zero byte")
    return path
