"""Paths, small files that readers on other nodes never see half of, and locks that are waited for."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from cluster.errors import SpecError

REPOSITORY = Path(__file__).resolve().parents[1]  # the one place that counts folders
NAME_BYTES = 255  # of a file's name, on every file system that we know of
PATH_BYTES = 4095  # of a path, on Linux


def kosen_home() -> Path:
    """~/.kosen, with the clusters' states and the user's secrets; KOSEN_HOME moves it. Raises SpecError."""
    return expanded(os.environ.get("KOSEN_HOME", "~/.kosen")).absolute()


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


@contextmanager
def replacing(path: Path, mode: int, *, draft: str | None = None, errors: str = "strict") -> Iterator[IO[str]]:
    """A text file that takes the place of `path` when the block ends: a reader never sees half of it.

    It has `mode`, less the umask, from its first byte on, and is removed where the block or the disk fails. The end of
    its name until then is `draft`, else this process's id, which keeps the drafts of several writers apart. `errors`
    is for what is not UTF-8, as `open` has it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid() if draft is None else draft}")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(descriptor, "w", encoding="utf-8", errors=errors) as file:  # noqa: PTH123 - for the mode
            yield file
        partial.replace(path)
    except BaseException:
        with suppress(OSError):  # there is none, in a folder that is a file
            partial.unlink()
        raise


def replace(path: Path, text: str, mode: int) -> None:
    """Write a small file of a private folder, which is made where there is none. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path, mode) as file:
        file.write(text)


def publish(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file by rename, for readers on other nodes."""
    replace(path, json.dumps(values, indent=2) + "\n", mode=0o600)


def read_published(path: Path) -> dict[str, Any] | None:
    """What another node published, or None so far.

    The folder is listed first: that makes an NFS client ask the server again, where a plain open may be answered for
    half a minute from its memory of a file that did not exist.
    """
    try:
        if path.name not in os.listdir(path.parent):  # noqa: PTH208
            return None
        return _json_object(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # ValueError: it is not UTF-8
        return None


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file that has one a line, where there is one, without what a writer did not live to end."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return [found for line in lines if (found := _json_object(line)) is not None]


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def locked(
    path: Path, seconds: float, late: Exception, *, shared: bool = False, take: Callable[..., object] = fcntl.flock
) -> Iterator[None]:
    """Hold the lock on the file `path`, which is made where there is none; the kernel frees that of a killed process.

    Raises `late` where others hold it for `seconds`. `take` is fcntl.lockf for a lock that holds between the nodes on
    every shared file system; those that are mounted with local locks keep a flock to the node.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + seconds
    with path.open("a") as file:
        while True:
            try:
                take(file, kind | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):  # POSIX allows either for a lock that is taken
                if time.monotonic() > deadline:
                    raise late from None
                time.sleep(0.1)
        yield
