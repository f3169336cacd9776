"""A CSV file that grows while something is measured."""

import csv
from collections.abc import Iterable, Sequence
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
