"""Messages to the user on standard error, beside a progress bar that may be drawn there."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console

from cluster.streams import visible_lines
from orchestrator.errors import storage_error
from orchestrator.files import utc_now


class PlainConsole(Console):
    """Prints text unchanged: brackets are not markup, `:names:` not emoji, and a reader that left ends the command."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))  # rich would exit with 1 from within


console = PlainConsole(stderr=True)


_log: TextIO | None = None


def say(message: str) -> None:
    """One line to the user, beside whatever is drawn."""
    shown = visible_lines(message)
    console.print(shown)
    if _log:
        print(utc_now(), shown, file=_log, flush=True)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """What is said meanwhile is appended to `path` too, each line with its time. Raises StorageFailed."""
    global _log
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise storage_error(error, path) from error
    with file:
        _log = file
        try:
            yield
        finally:
            _log = None
