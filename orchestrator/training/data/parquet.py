"""Rows into a Parquet file: the type of each field is found in all rows, so their order decides nothing."""

import os
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import SpecError, storage_error
from orchestrator.spec import first_line
from orchestrator.training.data.cells import EXACT_FLOAT, UnfitError, encodable, shown

Row = dict[str, Any]
Batch = list[tuple[int, Row]]  # with the rows' numbers in their source
DEEPEST = 30  # levels of lists and objects; more is not a data set
UNSTORABLE = "not storable"  # the reason of rows that hold what Parquet cannot
INT64 = 2**63
KINDS: dict[type, str] = {bool: "bool", float: "float", str: "text", bytes: "bytes", dict: "object", list: "list"}
PARTED = ("object", "list", "bytes")  # which nothing else can stand in for
PLAIN = "plain"  # all others
TURN = pa.struct([("role", pa.string()), ("content", pa.string())])
MESSAGES = pa.schema([("messages", pa.list_(TURN))])  # of verl's SFT


@dataclass
class Field:
    """What was seen in one field of all rows: how many values of each kind."""

    kinds: Counter[str] = field(default_factory=Counter)
    types: dict[str, Any] = field(default_factory=dict)  # Arrow's, of the plain values
    fields: dict[str, "Field"] = field(default_factory=dict)  # of its objects
    items: "Field | None" = None  # of its lists
    group: str = PLAIN  # of the values that are stored
    as_text: bool = False  # plain values of several kinds are stored as their texts

    def add(self, value: object) -> None:
        if value is None:
            return
        kind = _kind(value)
        self.kinds[kind] += 1
        if isinstance(value, dict):
            for name, part in value.items():
                self.fields.setdefault(name, Field()).add(part)
        elif isinstance(value, list):
            self.items = self.items or Field()
            for part in value:
                self.items.add(part)
        elif kind not in self.types:
            self.types[kind] = pa.scalar(value).type

    def settle(self) -> Any:
        """The Arrow type for it, once everything was added. Whole numbers beside others become floats, other mixtures
        of plain values texts. Of objects, lists, bytes and plain values only the most frequent can be stored."""
        groups = Counter[str]()
        for kind, count in self.kinds.items():
            groups[_group(kind)] += count
        self.group = max(sorted(groups), key=groups.__getitem__, default=PLAIN)
        if self.group == "object":
            parts = [pa.field(key, part.settle()) for key, part in self.fields.items()]
            return pa.struct(parts) if parts else pa.null()  # Parquet has no object without fields
        if self.group == "list":
            return pa.list_(self.items.settle() if self.items else pa.null())
        if self.group == "bytes":
            return pa.binary()
        kinds = {kind for kind in self.kinds if _group(kind) == PLAIN}
        if kinds <= {"int", "large int"}:
            return pa.int64() if kinds else pa.null()
        if kinds <= {"int", "float"}:
            return pa.float64()
        self.as_text = len(kinds) > 1
        return pa.string() if self.as_text else self.types[kinds.pop()]

    def texts(self, name: str = "") -> Iterator[str]:
        """The names of the settled fields whose values became texts."""
        if self.as_text:
            yield name
        for key, part in self.fields.items():
            yield from part.texts(f"{name}.{key}" if name else key)
        if self.items:
            yield from self.items.texts(f"{name}[]")

    def fit(self, value: Any, name: str = "") -> Any:
        """The value as its settled type takes it. Raises UnfitError for one of another group."""
        if value is None:
            return None
        if (kind := _kind(value)) != self.group and _group(kind) != self.group:
            raise UnfitError("another type", f"{shown(name)} is {kind}, where most rows have {self.group} values")
        if isinstance(value, dict):
            named = ((key, part, f"{name}.{key}" if name else key) for key, part in value.items())
            return {key: self.fields[key].fit(part, at) for key, part, at in named} or None
        if isinstance(value, list):
            return [self.items.fit(part, f"{name}[]") for part in value] if self.items else []
        return str(value) if self.as_text else value


def check_storable(value: object, where: str, depth: int = 0) -> None:
    """Raises UnfitError for what no Parquet file can hold."""
    if depth > DEEPEST:
        raise UnfitError(UNSTORABLE, f"{shown(where)} is nested more than {DEEPEST} deep")
    if isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str) or not encodable(name):
                raise UnfitError(UNSTORABLE, f"{shown(where)} has a key that is not text")
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


def write_rows(batches: Iterable[Batch], out: Path, source: str, drop: Callable[[int, UnfitError], None]) -> list[str]:
    """A row group a batch, in types that hold all rows; they wait beside `out` until all were seen.

    A row that fits no such type goes to `drop` with its number. Gives the names of fields whose values became texts,
    for they were of several kinds. Raises SpecError.
    """
    seen = Field()
    with _writing(out, source) as draft, tempfile.TemporaryFile(dir=out.parent) as waiting:
        for batch in batches:
            for _, row in batch:
                seen.add(row)
            pickle.dump(batch, waiting)
        waiting.seek(0)
        schema = pa.schema(list(seen.settle()))

        def fitting(batch: Batch) -> Iterator[Row]:
            for number, row in batch:
                try:
                    yield seen.fit(row)
                except UnfitError as error:
                    drop(number, error)

        _write((list(fitting(batch)) for batch in _load(waiting)), schema, draft)
    return list(seen.texts())


def write_messages(batches: Iterable[Batch], out: Path, source: str) -> None:
    """The same for rows of `messages`, whose types are known."""
    with _writing(out, source) as draft:
        _write(([row for _, row in batch] for batch in batches), MESSAGES, draft)


def _kind(value: object) -> str:
    kind = KINDS.get(type(value))
    if kind:
        return kind
    if isinstance(value, int):
        return "int" if -EXACT_FLOAT <= value <= EXACT_FLOAT else "large int"
    return str(pa.scalar(value).type)


def _group(kind: str) -> str:
    return kind if kind in PARTED else PLAIN


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
        for batch in filter(None, batches):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))


def _load(file: IO[bytes]) -> Iterator[Batch]:
    while True:
        try:
            yield pickle.load(file)  # of our own making: the file has no name that others could open
        except EOFError:
            return
