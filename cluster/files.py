"""Where this code lies, and small files that readers on other nodes never see half of."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]  # the one place that counts folders


def replace(path: Path, text: str, mode: int) -> None:
    """Write a file by rename; it has `mode` from its first byte on."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - the mode must hold from the first byte
        file.write(text)
    draft.replace(path)


def publish(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file by rename, for readers on other nodes."""
    replace(path, json.dumps(values, indent=2) + "\n", mode=0o600)


def read_published(path: Path) -> dict[str, Any] | None:
    """What another node published, or None so far.

    The folder is listed first: that makes an NFS client ask the server again, where a plain open may be answered for
    half a minute from its memory of a file that did not exist.
    """
    try:
        if path.name not in os.listdir(path.parent):  # noqa: PTH208
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
