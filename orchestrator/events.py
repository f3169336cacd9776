"""`events.jsonl`: what happened to a run and when, one JSON line an event, readable with jq."""

import datetime
from pathlib import Path
from typing import Any

import orjson

from orchestrator.errors import storage_error


class Events:
    """Appends events of one driver. Opened after the run folder's lock is held."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"

    def add(self, event: str, **fields: Any) -> None:
        line = {"time": utc_now(), "event": event} | fields
        try:
            with self._path.open("ab") as stream:
                stream.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise storage_error(error, self._path) from error


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
