"""The errors that reach a user, and the one place that turns them into a sentence and an exit code."""

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from cluster.errors import INTERRUPTED as INTERRUPTED
from cluster.errors import KosenError as KosenError
from cluster.errors import Parser as Parser
from cluster.errors import SpecError as SpecError
from cluster.streams import guarded, visible_lines

if TYPE_CHECKING:
    from ray.exceptions import RayError

COMPLETE = 0
INCOMPLETE = 3


class RunLocked(KosenError):
    """Another job writes into this run folder."""

    exit_code = 2


class ClusterNotReady(KosenError):
    """There is no Ray cluster to work on, or it does not answer."""


class EndpointDown(KosenError):
    """The model's endpoint does not answer, or answers with another model."""


class JudgeUnavailable(KosenError):
    """The judge's endpoint does not answer, or does not know the judge's model."""


class TrainingFailed(KosenError):
    """Training cannot recover on its own: repeated failures, or NaN values."""


class StorageFailed(KosenError):
    """The run folder cannot be written: a full disk, a quota, missing permission."""


def storage_error(error: OSError, path: str | os.PathLike[str]) -> KosenError:
    """The message for a failed write below `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFailed(
            f"the disk that holds {path} is full ({os.strerror(error.errno)}). Everything recorded so far is kept: "
            "free some space and run the same command again"
        )
    return StorageFailed(f"cannot write {path}: {error.strerror or error}. Check its permissions, or give another run=")


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run a command's `main` and exit with its code; a user's mistake ends in one sentence on standard error."""
    interrupt_on_sigterm()
    exit_with(guarded(lambda: exit_code(main)))


def exit_with(code: int) -> NoReturn:
    """Exit without a last garbage collection, which takes up to 6 s of CPU once torch and vLLM have been imported."""
    gc.freeze()
    sys.exit(code)


def exit_code(main: Callable[[], int]) -> int:
    """A command's `main`; what stopped it in a sentence on standard error, and the code to exit with."""
    try:
        return main()
    except KosenError as error:
        print(f"error: {visible_lines(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted. What was finished is recorded; run the same command to resume", file=sys.stderr)
        return INTERRUPTED


def interrupt_on_sigterm() -> None:
    """Take SIGTERM, which `ray job stop` and schedulers send, as Ctrl-C: what was deployed is released before the exit.

    To be called again after ray.init, which installs a handler that kills the process at once. Main thread only.
    """
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def cause_of(error: "RayError") -> KosenError:
    """The KosenError that a remote failure began with, or one that says what Ray saw."""
    from ray.exceptions import RayTaskError  # whoever has such an error has imported Ray

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RayTaskError):
            cause = cause.cause if cause.cause is not None else cause.__cause__
            continue
        if isinstance(cause, KosenError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return ClusterNotReady(f"Ray ended the work: {_last_line(error)}. Recorded answers are kept: run the command again")


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__
