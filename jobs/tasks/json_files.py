"""Writes JSON files whole or not at all, an entry at a time."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cluster import files
from orchestrator.errors import storage_error

AddEntry = Callable[[str, Any], None]


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all."""
    with replacing(path) as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=4) + "\n")


def dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


@contextmanager
def json_object(path: Path) -> Iterator[AddEntry]:
    """Writes one JSON object, an entry a line, without ever holding more than one entry."""
    with _entries(path, "{", "}") as write:
        yield lambda key, value: write(f"{dumps(key)}: {dumps(value)}")


@contextmanager
def json_list(path: Path) -> Iterator[Callable[[Any], None]]:
    """The same for one JSON list."""
    with _entries(path, "[", "]") as write:
        yield lambda value: write(dumps(value))


@contextmanager
def _entries(path: Path, opening: str, closing: str) -> Iterator[Callable[[str], None]]:
    """Writes entries between two brackets, each on a line of its own."""
    with replacing(path) as file:
        separator = f"{opening}\n"

        def write(entry: str) -> None:
            nonlocal separator
            file.write(separator + entry)
            separator = ",\n"

        yield write
        file.write(f"\n{closing}\n" if separator == ",\n" else f"{opening}{closing}\n")


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes the place of `path` when it is complete. What a killed writer left, the next one takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half of a surrogate pair, which models do emit, is not UTF-8; its backslash form is right in JSON.
    with files.replacing(path, 0o666, draft="partial", errors="backslashreplace") as file:
        yield file


@contextmanager
def storage(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error, run) from None
