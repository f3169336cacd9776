"""Progress on standard error: bars on a terminal, a line a minute where the output is piped."""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.streams import visible_lines
from orchestrator.clock import utc_now
from orchestrator.errors import storage_error

PIPED_INTERVAL = 60.0  # seconds between lines


class PlainConsole(Console):
    """Prints as it is told: brackets are no markup, `:names:` no pictures, and a reader that left ends the command."""

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


class Bars:
    """Named counters with a known total."""

    def __init__(self, progress: Progress, totals: dict[str, int]) -> None:
        self._progress = progress
        self._tasks = {name: progress.add_task(name, total=total, note="") for name, total in totals.items()}
        self._last_line = time.monotonic()

    def update(self, name: str, done: int, note: str = "") -> None:
        self._progress.update(self._tasks[name], completed=done, note=note)

    def tick(self) -> None:
        """Where nothing is drawn, print all counters at long intervals."""
        if console.is_terminal or time.monotonic() - self._last_line < PIPED_INTERVAL:
            return
        self._last_line = time.monotonic()
        parts = [f"{t.description} {t.completed:.0f}/{t.total:.0f} {t.fields['note']}" for t in self._progress.tasks]
        print("; ".join(parts), file=sys.stderr, flush=True)


@contextmanager
def bars(totals: dict[str, int]) -> Iterator[Bars]:
    """Draw a bar for each entry of `totals` while the block runs."""
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bars(progress, totals)
