"""Keeps append-only record logs: one JSON line a record, one writer a run, nothing lost to a kill.

The newest record of a key wins. Resuming needs nothing but these files.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar, cast

import orjson

from orchestrator.errors import storage_error
from orchestrator.files import mode_like
from orchestrator.records.lines import format_line, parse_line
from orchestrator.records.types import AnswerKey, Judgement, Prediction, VerdictKey

R = TypeVar("R", Prediction, Judgement)
K = TypeVar("K", AnswerKey, VerdictKey)


class Entry(NamedTuple):
    """Where the newest record of a key lies in its log, and the few fields that decide what is still to do."""

    offset: int
    length: int
    state: tuple[str | None, ...]


class RecordLog(Generic[R, K]):
    """One append-only JSON-lines file with an index of the newest record of each key.

    `key_of` says what a record is about, `state_of` picks the fields to keep in memory; the records themselves stay on
    disk. Whoever constructs it must hold the run folder's lock. `repairs` says in sentences what opening had to repair.
    """

    def __init__(self, path: Path, key_of: Callable[[R], K], state_of: Callable[[R], tuple[str | None, ...]]) -> None:
        self.path = path
        self.index: dict[K, Entry] = {}
        self.repairs: list[str] = []
        self._key_of: Callable[[R], K] = key_of
        self._state_of: Callable[[R], tuple[str | None, ...]] = state_of
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode_like(path.parent))
            self._end = self._load()
        except OSError as error:
            raise storage_error(error, path) from error

    def append(self, records: Sequence[R]) -> list[R]:
        """Write `records` in one go; where that fails, as many of them as still fit. Raises StorageFailed.

        No record is ever in the file by half: that line would be read as damage. Returns the records as they stand
        there: one that cannot be written fails alone (orchestrator.records.lines).
        """
        written = [(cast(R, record), line) for record, line in map(format_line, records)]
        try:
            self._write(b"".join(line for _, line in written))
        except OSError as error:
            if len(records) == 1:
                raise storage_error(error, self.path) from error
            return [stands for record in records for stands in self.append([record])]
        for record, line in written:
            self._remember(record, self._end, len(line))
            self._end += len(line)
        return [record for record, _ in written]

    def read(self, key: K) -> R:
        """The newest record of `key`. Raises KeyError if there is none."""
        entry = self.index[key]
        record: R = orjson.loads(os.pread(self._file, entry.length, entry.offset))
        return record

    def sync(self) -> None:
        """Bring what was appended to the disk itself."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise storage_error(error, self.path) from error

    def close(self) -> None:
        self.sync()
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            os.ftruncate(self._file, self._end)
            raise

    def _load(self) -> int:
        """Index the file, cut off a torn last line, and return where the next record goes."""
        end = 0
        damaged = 0
        with open(self._file, "rb", closefd=False) as stream:
            for line in stream:
                record = parse_line(line)
                if not line.endswith(b"\n"):
                    break
                if record is None:
                    damaged += 1
                else:
                    self._remember(cast(R, record), end, len(line))
                end += len(line)
        size = os.fstat(self._file).st_size
        if end < size:
            os.ftruncate(self._file, end)
            self.repairs.append(f"{self.path.name}: cut off a torn last line of {size - end} bytes")
        if damaged:
            self.repairs.append(
                f"{self.path.name}: skipped {damaged} damaged or foreign lines; their items are asked again"
            )
        return end

    def _remember(self, record: R, offset: int, length: int) -> None:
        self.index[self._key_of(record)] = Entry(offset, length, self._state_of(record))


class RecordReader(Generic[R, K]):
    """The newest record of each key of a log that need not be locked, in the order of the keys' first appearance.

    Keeps places, not records, and shares the ids' texts with whoever interned them: a log may have 100,000 keys. A log
    that does not exist is empty. Whole lines that are not records are skipped and counted in `n_foreign`; a last
    line without its end is a record if it is whole.
    """

    def __init__(self, path: Path, key_of: Callable[[R], K]) -> None:
        self.n_foreign = 0
        self._offsets: dict[K, int] = {}
        self._stream = path.open("rb") if path.exists() else None
        offset = 0
        for line in self._stream or ():
            record = parse_line(line)
            if record is None:
                self.n_foreign += line.endswith(b"\n")
            else:
                record["id"] = sys.intern(record["id"])
                self._offsets[key_of(cast(R, record))] = offset
            offset += len(line)

    def __iter__(self) -> Iterator[R]:
        return map(self._read, self._offsets.values())

    def get(self, key: K) -> R | None:
        offset = self._offsets.get(key)
        return None if offset is None else self._read(offset)

    def _read(self, offset: int) -> R:
        assert self._stream
        self._stream.seek(offset)
        record: R = orjson.loads(self._stream.readline())
        return record
