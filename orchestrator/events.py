"""`events.jsonl`: what happened to a run and when, one JSON line an event, readable with jq."""

from pathlib import Path
from typing import Any

import orjson

from orchestrator.concurrency.patience import attend
from orchestrator.errors import storage_error
from orchestrator.files import as_open_as_its_folder, utc_now


class Events:
    """Appends events of one driver. Opened after the run folder's lock is held.

    A folder that hangs is reported, and Ctrl-C still works meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"

    def add(self, event: str, **fields: Any) -> None:
        line = orjson.dumps({"time": utc_now(), "event": event} | fields, option=orjson.OPT_APPEND_NEWLINE)
        attend(lambda: self._append(line), f"the run folder {self._path.parent}")

    def _append(self, line: bytes) -> None:
        try:
            with open(self._path, "ab", opener=as_open_as_its_folder) as stream:
                stream.write(line)
        except OSError as error:
            raise storage_error(error, self._path) from error
