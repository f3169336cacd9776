"""What went wrong, in a sentence: verl's errors reach a driver through Ray, wrapped and with long tracebacks."""

import errno
import shutil
from pathlib import Path

from orchestrator.errors import KosenError
from orchestrator.spec import first_line

FULL_DISK = ("No space left on device", "Disk quota exceeded")
MIN_FREE = 16 * 2**20  # bytes; torch reports a full disk as a failed write, without the reason


def root_cause(error: BaseException) -> BaseException:
    """The exception that Ray's tasks handed on."""
    cause = getattr(error, "cause", None)
    return root_cause(cause) if isinstance(cause, BaseException) else error


def sentence(error: BaseException) -> str:
    """Our own errors explain themselves; others are named."""
    cause = root_cause(error)
    return str(cause) if isinstance(cause, KosenError) else f"{type(cause).__name__}: {first_line(cause)}"


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error of saving into `folder` comes from a full disk or a quota."""
    cause = root_cause(error)
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(text in str(cause) for text in FULL_DISK) or shutil.disk_usage(folder).free < MIN_FREE
