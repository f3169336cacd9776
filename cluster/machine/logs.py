"""Logs: the end of one, and Ray's own after their folder is gone, within a budget and without the cluster's token."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FILE_LIMIT = 16 * 1024**2  # bytes; of a longer file the end is kept
TOTAL_LIMIT = 200 * 1024**2  # bytes
SECONDS = 4.0  # a step gets 12 from its signal to its end, and Ray's own end takes up to 7 of them


def keep_logs(source: Path, target: Path, token: bytes) -> None:
    """Copy the files under `source` into `target`, in the place of what was there, without `token` (b"": no token).

    The smallest files come first, until the budget is used up; what cannot be read or written is left out. Ray's
    dashboard logs the headers of a request for the output of an unknown job, hence the token.
    """
    deadline = time.monotonic() + SECONDS
    if not source.is_dir():
        return
    shutil.rmtree(target, ignore_errors=True)
    total = 0
    for size, path in sorted(_files(source)):
        total += min(size, FILE_LIMIT)
        if total > TOTAL_LIMIT or time.monotonic() > deadline:
            return
        with suppress(OSError):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy.write_bytes(_redacted(_end_of(path, size), token))


def _files(source: Path) -> Iterator[tuple[int, Path]]:
    """The regular files with their sizes in bytes; links would point into the folder that is to be removed."""
    for folder, _, names in os.walk(source):
        for path in (Path(folder) / name for name in names):
            with suppress(OSError):
                if path.is_file() and not path.is_symlink():
                    yield path.stat().st_size, path


def _end_of(path: Path, size: int) -> bytes:
    """The last FILE_LIMIT bytes, from the start of a line: half a token would not be recognized."""
    with path.open("rb") as file:
        if size <= FILE_LIMIT:
            return file.read(FILE_LIMIT)
        file.seek(size - FILE_LIMIT)
        return file.read(FILE_LIMIT).partition(b"\n")[2]


def _redacted(content: bytes, token: bytes) -> bytes:
    return content.replace(token, b"<token>") if token else content


def tail(path: Path, lines: int = 15) -> str:
    """The end of a log."""
    if not path.exists():
        return f"(there is no {path})"
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
