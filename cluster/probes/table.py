"""CSV files that grow while something is measured, and the thread that measures."""

import csv
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

Cell = str | float | None  # None: not measured, an empty cell


class Table:
    """Appends rows; its header is written once, also over several runs."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        if self._file.tell() == 0:
            self.append([columns])

    def append(self, rows: Iterable[Sequence[Cell]]) -> None:
        self._writer.writerows(rows)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Tables:
    """Several tables of one folder, which is made where there is none: `columns` has theirs by the name of the file."""

    def __init__(self, folder: Path, columns: Mapping[str, Sequence[str]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._tables = {name: Table(folder / name, names) for name, names in columns.items()}

    def append(self, name: str, rows: Iterable[Sequence[Cell]]) -> None:
        self._tables[name].append(rows)

    def close(self) -> None:
        for table in self._tables.values():
            table.close()


@contextmanager
def sampling(
    sample: Callable[[], object], period: float, *, delay: float, ended: Callable[[OSError], object]
) -> Iterator[None]:
    """Call `sample` in a thread of its own, `delay` seconds from now and then every `period`, until the `with` ends.

    A disk that is full, or a folder that is gone, ends the recording alone, and `ended` is told why.
    """
    stopped = threading.Event()

    def run() -> None:
        wait = delay
        try:
            while not stopped.wait(wait):
                sample()
                wait = period
        except OSError as error:
            ended(error)

    thread = threading.Thread(target=run, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()  # as long as a sample takes at most
