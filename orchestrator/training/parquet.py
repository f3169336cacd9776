"""Rows into a Parquet file: the type of each field is found in all rows, so their order decides nothing."""

import os
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import SpecError, storage_error
from orchestrator.spec import first_line
from orchestrator.training.cells import EXACT_FLOAT, UnfitError, encodable, shown

Row = dict[str, Any]
DEEPEST = 30  # levels of lists and objects; more is no data set
UNSTORABLE = "not storable"  # the reason of rows that hold what Parquet cannot
INT64 = 2**63
KINDS: dict[type, str] = {bool: "bool", float: "float", str: "text", bytes: "bytes", dict: "object", list: "list"}
PARTED = ("object", "list", "bytes")  # which nothing else can stand in for
TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
MESSAGES = pa.schema([("messages", pa.list_(TURN))])  # of verl's SFT


@dataclass
class Field:
    """What was seen in one field of all rows: each kind of value with the first row that has it."""

    kinds: dict[str, int] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)  # Arrow's, of the values that have no parts
    fields: dict[str, "Field"] = field(default_factory=dict)  # of its objects
    items: "Field | None" = None  # of its lists
    as_text: bool = False  # values of several kinds are stored as their texts

    def add(self, value: object, row: int) -> None:
        if value is None:
            return
        kind = _kind(value)
        if kind not in self.kinds:
            self.kinds[kind] = row
            if kind not in ("object", "list"):
                self.types[kind] = pa.scalar(value).type
        if isinstance(value, dict):
            for name, part in value.items():
                self.fields.setdefault(name, Field()).add(part, row)
        elif isinstance(value, list):
            self.items = self.items or Field()
            for part in value:
                self.items.add(part, row)

    def settle(self, name: str) -> Any:
        """The Arrow type that holds all of it, once everything was added: whole numbers and others become floats,
        other mixtures of plain values become texts. Raises UnfitError for lists and objects beside anything else."""
        kinds = self.kinds.keys()
        if kinds == {"object"}:
            parts = [pa.field(key, part.settle(f"{name}.{key}" if name else key)) for key, part in self.fields.items()]
            return pa.struct(parts) if parts else pa.null()  # Parquet has no object without fields
        if kinds == {"list"}:
            return pa.list_(self.items.settle(f"{name}[]") if self.items else pa.null())
        if len(kinds) > 1 and not kinds.isdisjoint(PARTED):
            found = ", ".join(f"{kind} (first: row {row} of those kept)" for kind, row in self.kinds.items())
            raise UnfitError("several types", f"{shown(name)}: {found}")
        if kinds <= {"int", "large int"}:
            return pa.int64() if kinds else pa.null()
        if kinds <= {"int", "float"}:
            return pa.float64()
        self.as_text = len(kinds) > 1
        return pa.string() if self.as_text else next(iter(self.types.values()))

    def texts(self, name: str = "") -> Iterator[str]:
        """The names of the settled fields whose values became texts."""
        if self.as_text:
            yield name
        for key, part in self.fields.items():
            yield from part.texts(f"{name}.{key}" if name else key)
        if self.items:
            yield from self.items.texts(f"{name}[]")

    def fit(self, value: Any) -> Any:
        """The value as its settled type takes it."""
        if isinstance(value, dict):
            return {name: self.fields[name].fit(part) for name, part in value.items()} or None
        if isinstance(value, list):
            return [self.items.fit(part) for part in value] if self.items else []
        return str(value) if self.as_text and value is not None else value


def check_storable(value: object, where: str, depth: int = 0) -> None:
    """Raises UnfitError for what no Parquet file can hold."""
    if depth > DEEPEST:
        raise UnfitError(UNSTORABLE, f"{shown(where)} is nested more than {DEEPEST} deep")
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str) or not encodable(name):
                raise UnfitError(UNSTORABLE, f"{shown(where)} has a key that is no text")
            check_storable(part, f"{where}.{name}", depth + 1)
    elif isinstance(value, list):
        for part in value:
            check_storable(part, where, depth + 1)
    elif isinstance(value, str):
        if not encodable(value):
            raise UnfitError(UNSTORABLE, f"{shown(where)} holds a broken character")
    elif isinstance(value, int):
        if not -INT64 <= value < INT64:
            raise UnfitError(UNSTORABLE, f"{shown(where)} is a number of more than 64 bits")
    else:
        _check_other(value, where)


def write_rows(batches: Iterable[list[Row]], out: Path, source: str) -> list[str]:
    """A row group a batch, in types that hold all rows; they wait beside `out` until all were seen.

    Gives the names of fields whose values became texts, for they were of several types. Raises SpecError.
    """
    seen = Field()
    with _writing(out, source) as draft, tempfile.TemporaryFile(dir=out.parent) as waiting:
        numbers = count(1)
        for batch in batches:
            for row in batch:
                seen.add(row, next(numbers))
            pickle.dump(batch, waiting)
        waiting.seek(0)
        schema = pa.schema(list(_settled(seen, source)))
        _write(([seen.fit(row) for row in batch] for batch in _load(waiting)), schema, draft)
    return list(seen.texts())


def write_messages(batches: Iterable[list[Row]], out: Path, source: str) -> list[str]:
    """The same for rows of `messages`, whose types are known."""
    with _writing(out, source) as draft:
        _write(batches, MESSAGES, draft)
    return []


def _settled(seen: Field, source: str) -> Any:
    try:
        return seen.settle("")
    except UnfitError as error:
        raise SpecError(
            f"the rows of {source} have fields of several types, so they fit no Parquet file: {error}"
        ) from None


def _kind(value: object) -> str:
    kind = KINDS.get(type(value))
    if kind:
        return kind
    if isinstance(value, int):
        return "int" if -EXACT_FLOAT <= value <= EXACT_FLOAT else "large int"
    return str(pa.scalar(value).type)


def _check_other(value: object, where: str) -> None:
    try:
        pa.scalar(value)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        raise UnfitError(UNSTORABLE, f"{shown(where)} is a {type(value).__name__}") from None


@contextmanager
def _writing(out: Path, source: str) -> Iterator[Path]:
    """A draft beside `out`, which becomes it in one piece."""
    draft = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(out)
    except pa.ArrowException as error:
        raise SpecError(f"the rows of {source} fit no Parquet file: {first_line(error)}") from None
    except OSError as error:
        raise storage_error(error, out) from None
    finally:
        draft.unlink(missing_ok=True)


def _write(batches: Iterable[list[Row]], schema: Any, draft: Path) -> None:
    with pq.ParquetWriter(draft, schema) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _load(file: IO[bytes]) -> Iterator[list[Row]]:
    while True:
        try:
            yield pickle.load(file)  # of our own making: the file has no name that others could open
        except EOFError:
            return
