"""Ids for rows of data sets that have none, or whose ids are only unique within one of several files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.records.types import digest


class RowIds:
    """Hands out ids: the row's own, else a digest of its question; the second row with the same one gets `-2`."""

    def __init__(self, columns: Sequence[str] = ("id",)) -> None:
        self._columns, self._seen = columns, Counter[str]()

    def of(self, row: Mapping[str, Any], question: str) -> str:
        own = next((row[column] for column in self._columns if row.get(column) not in (None, "")), None)
        identity = digest(question) if own is None else str(own)
        self._seen[identity] += 1
        return identity if self._seen[identity] == 1 else f"{identity}-{self._seen[identity]}"
