"""A cluster's events.jsonl: what happened when, one JSON object a line."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.state import cluster_dir


class EventLog:
    """Appends events; `seconds` counts from the log's opening, so phases can be read off without arithmetic."""

    def __init__(self, path: Path, job_id: str) -> None:
        self._path, self._job_id = path, job_id
        self._opened = datetime.now(UTC)

    def write(self, event: str, **values: object) -> None:
        now = datetime.now(UTC)
        seconds = round((now - self._opened).total_seconds(), 2)
        line = {"time": now.isoformat(timespec="milliseconds"), "job": self._job_id, "seconds": seconds, "event": event}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | values, ensure_ascii=False) + "\n")


def read_events(name: str) -> list[dict[str, Any]]:
    """A cluster's events, oldest first, without lines that their writer could not finish."""
    path = cluster_dir(name) / "events.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [event for line in lines if (event := _parse_line(line))]


def _parse_line(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
