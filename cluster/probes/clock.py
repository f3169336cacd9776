"""How far two hosts' clocks are apart, seen through a file system that both of them mount."""

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Offset:
    """Seconds that this host's clock is ahead (negative: behind), give or take `uncertainty`."""

    seconds: float
    uncertainty: float


def ahead_of_files(folder: Path) -> Offset | None:
    """This clock against the one that stamps files in `folder`: an NFS server's, elsewhere often this host's own.

    None where nothing can be written.
    """
    path = folder / f".clock-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        path.touch(exist_ok=False)
        before = time.time()
        os.utime(path)  # without times: the server takes its own
        stamp = path.stat().st_mtime
        after = time.time()
        path.unlink()
    except OSError:
        return None
    return Offset((before + after) / 2 - stamp, (after - before) / 2)


def ahead_of_host(published: Path, time_there: float, folder: Path) -> Offset | None:
    """This clock against that of the host which wrote `published` when its own clock said `time_there` (Unix seconds).

    Both clocks are compared with the files' clock. Where each host stamps its files itself (Lustre), that shows
    nothing, but a file that comes from the future still does: the host is ahead by at least that much. None where
    one of the files is missing.
    """
    here = ahead_of_files(folder)
    try:
        there = time_there - published.stat().st_mtime
    except OSError:
        return None
    if here is None:
        return None
    at_most = time.time() - time_there  # the file was written before it was read
    return Offset(min(here.seconds - there, at_most), here.uncertainty)
