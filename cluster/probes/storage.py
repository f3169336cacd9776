"""Free space of a file system, and whether what is written to it can be read back."""

import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

CANARY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a file system. `free` is what this user may still write."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Canary:
    """A file written, synced and read back: the seconds of writing, or what went wrong."""

    write_seconds: float | None
    problem: str | None


def space(path: Path) -> Space | None:
    """The free space where `path` lies, or None where there is no such folder."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return Space(usage.total, usage.free)


def canary(folder: Path) -> Canary:
    """Write, sync, read and remove 64 KiB in `folder`. The reading may come from this host's memory."""
    content = secrets.token_bytes(CANARY_BYTES)
    path = folder / f".canary-{os.getpid()}-{secrets.token_hex(4)}"
    started = time.perf_counter()
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter()
        same = path.read_bytes() == content
        path.unlink()
    except OSError as error:
        path.unlink(missing_ok=True)
        return Canary(None, error.strerror or str(error))
    return Canary(written - started, None if same else "the file came back changed")
