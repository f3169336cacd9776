"""Progress on standard error: bars on a terminal, a line a minute where the output is piped."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from orchestrator.console import console

PIPED_INTERVAL = 60.0  # seconds between lines


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
