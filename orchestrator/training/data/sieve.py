"""Which rows of a data set can be trained on, and the report on the others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from statistics import median
from typing import Any

from pydantic import BaseModel

from orchestrator.errors import SpecError
from orchestrator.training.data.cells import UnfitError, missing, shown
from orchestrator.training.data.formats import RowFormat
from orchestrator.training.data.tokens import TokenCounter
from orchestrator.training.data.turns import Message

Row = dict[str, Any]
MOST_NAMES = 12  # names of columns or keys in a sentence


class Dropped(BaseModel):
    """Rows that were left out for one reason, and what was wrong with the first of them (counted from 1)."""

    reason: str
    rows: int
    first_row: int
    example: str


class Tokens(BaseModel):
    """Lengths of the kept rows by the model's chat template."""

    min: int
    median: float
    max: int
    total: int


class DataReport(BaseModel):
    """The result of reading a data set; kept beside the Parquet file, under its name, in report.json."""

    source: str
    format: str
    rows: int
    kept: int
    dropped: list[Dropped] = []
    unused_columns: list[str] = []
    unused_turn_keys: list[str] = []  # what turns have beside their text, and is not trained on
    stored_as_text: list[str] = []  # fields whose values were of several types
    tokens: Tokens | None = None
    fingerprint: dict[str, Any] = {}
    partial: bool = False  # there may be more rows, which were not read

    def sentence(self) -> str:
        """The report for a user, in one line."""
        of = "the first " if self.partial else ""
        text = f"{self.source}: {self.kept:,} of {of}{self.rows:,} rows kept ({self.format})"
        if self.tokens:
            text += f", {self.tokens.total:,} tokens, median {self.tokens.median:,.0f}, longest {self.tokens.max:,}"
        for drop in self.dropped:
            text += f"; {drop.rows:,} dropped, {drop.reason} (first: row {drop.first_row}, {drop.example})"
        for what, names in (
            ("columns not used", self.unused_columns),
            ("keys of turns not used", self.unused_turn_keys),
            ("stored as text, for the types differ", self.stored_as_text),
        ):
            if names:
                text += f"; {what}: {some(names)}"
        return text


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(map(shown, names[:MOST_NAMES])) + more


def columns_of(rows: Iterable[Row]) -> tuple[list[str], list[str]]:
    """The columns in which any row holds something, and of those the ones that at least half of the rows have; the
    order of rows decides nothing."""
    found: dict[str, int] = {}
    total = 0
    for row in rows:
        total += 1
        for name, value in row.items():
            found[name] = found.get(name, 0) + (not missing(value))
    return [name for name, count in found.items() if count], [name for name, n in found.items() if n and 2 * n >= total]


class Sieve:
    """Passes on the rows that can be trained on, and remembers the others.

    `finish` makes of what the shape has read in row n (from 1) the row that is stored and its messages. It raises
    UnfitError, as the shape does.
    """

    def __init__(
        self,
        source: str,
        columns: Sequence[str],
        shape: RowFormat,
        finish: Callable[[Any, int], tuple[Row, list[Message]]],
        counter: TokenCounter | None,
        max_length: int | None,
    ) -> None:
        self._source = source
        self._columns = columns
        self._shape = shape
        self._finish = finish
        self._counter = counter
        self._max_length = max_length
        self._rows = 0
        self._kept = 0
        self._lengths: dict[int, int] = {}
        self._dropped: dict[str, Dropped] = {}

    def batches(self, rows: Iterable[Row], size: int) -> Iterator[list[tuple[int, Row]]]:
        """The kept rows with their numbers, `size` rows at a time. Raises SpecError at the end when there is none."""
        numbered = enumerate(rows, start=1)
        while chunk := list(islice(numbered, size)):
            if batch := self._short_enough(self._fit(chunk)):
                self._kept += len(batch)
                yield batch
        if not self._kept:
            raise SpecError(self._why_none())

    def drop_late(self, number: int, error: UnfitError) -> None:
        """Leave out a row that was kept so far."""
        self._kept -= 1
        self._lengths.pop(number, None)
        self._drop(number, error.reason, str(error))

    def report(self) -> DataReport:
        """Raises SpecError where no row is left."""
        if not self._kept:
            raise SpecError(self._why_none())
        lengths = sorted(self._lengths.values())
        tokens = (
            Tokens(min=lengths[0], median=median(lengths), max=lengths[-1], total=sum(lengths)) if lengths else None
        )
        return DataReport(
            source=self._source,
            format=self._shape.name,
            rows=self._rows,
            kept=self._kept,
            dropped=sorted(self._dropped.values(), key=lambda drop: (-drop.rows, drop.first_row)),
            unused_columns=[shown(name) for name in self._columns if name not in self._shape.columns],
            unused_turn_keys=sorted(self._shape.unused_keys),
            tokens=tokens,
        )

    def _fit(self, chunk: list[tuple[int, Row]]) -> list[tuple[int, Row, list[Message]]]:
        fit = []
        for number, row in chunk:
            self._rows = number
            try:
                fit.append((number, *self._finish(self._shape.read(row), number)))
            except UnfitError as error:
                self._drop(number, error.reason, str(error))
        return fit

    def _short_enough(self, fit: list[tuple[int, Row, list[Message]]]) -> list[tuple[int, Row]]:
        if self._counter is None:
            return [(number, row) for number, row, _ in fit]
        kept = []
        for (number, row, _), length in zip(fit, self._counter.count([turns for *_, turns in fit]), strict=True):
            if isinstance(length, str):
                self._drop(number, "refused by the chat template", f"it says: {length}")
            elif self._max_length is not None and length > self._max_length:
                self._drop(number, f"longer than {self._max_length:,} tokens", f"{length:,} tokens")
            else:
                self._lengths[number] = length
                kept.append((number, row))
        return kept

    def _drop(self, number: int, reason: str, example: str) -> None:
        drop = self._dropped.setdefault(reason, Dropped(reason=reason, rows=0, first_row=number, example=example))
        drop.rows += 1
        if number < drop.first_row:
            drop.first_row, drop.example = number, example

    def _why_none(self) -> str:
        if not self._dropped:
            return f"{self._source} has no rows"
        worst = max(self._dropped.values(), key=lambda drop: drop.rows)
        return (
            f"none of the {self._rows:,} rows of {self._source} can be trained on; {worst.rows:,} of them: "
            f"{worst.reason} (row {worst.first_row}: {worst.example})"
        )
