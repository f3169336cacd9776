"""Takes the document out of a StructEval response and parses it, as the original does and as its format is defined.

`parse` and `parse_original` return what the paths of an item are looked up in; None where the text does not parse, or
holds nothing. CSV becomes {"csv_headers": […], "csv_rows": […]}.
"""

import csv
import io
import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

from jobs.tasks import answers

TYPES = ("JSON", "YAML", "TOML", "XML", "CSV")
BEGIN, END = "<|BEGIN_CODE|>", "<|END_CODE|>"
_FENCE = re.compile(r"```([^\n`]*)\n(.*?)(?:```|\Z)", re.DOTALL)
_LABELS = {"yml": "YAML"} | {name.lower(): name for name in TYPES}
_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
_BARE_KEY = re.compile(r"^([ \t]*)([^\s=\[\]\"'#.]*[^\x00-\x7f][^\s=\[\]\"'#.]*)(?=[ \t]*=)", re.MULTILINE)
_LONGEST_SEARCH = 200  # brackets of a text behind which JSON is looked for


def parse(output_type: str, response: str) -> Any:
    """The first document of a response that parses, out of where it says best that it is one.

    These are, in order, the fences labelled with the type, what follows <|BEGIN_CODE|>, the fences without a label, and
    the whole text; of JSON the longest that stands in the text. A scalar of YAML and a single line of CSV are not
    documents: any prose is one.
    """
    text = answers.without_thinking(response)
    for candidates in _candidates(output_type, text):
        if candidates:
            return next((data for data in map(_READERS[output_type], candidates) if data), None)
    return _amid_prose(text) if output_type == "JSON" else None


def parse_original(output_type: str, response: str) -> Any:
    """As the original reads it: the first fence of any label, in text whose escapes were decoded as Latin-1."""
    text = response.replace("&lt;", "<").replace("&gt;", ">").replace(_EMPTY_THOUGHT, "")
    if not text.strip():
        return None
    try:
        text = text.encode(errors="replace").decode("unicode_escape")
    except UnicodeDecodeError:
        return None
    fence = _FENCE.search(text)
    return _ORIGINAL_READERS[output_type](fence[2].strip() if fence else _behind_begin(text).strip()) or None


def _candidates(output_type: str, text: str) -> list[list[str]]:
    fences = [(_LABELS.get(label.strip().lower(), label.strip()), body) for label, body in _FENCE.findall(text)]
    labelled = [body for label, body in fences if label == output_type]
    marked = [_behind_begin(text)] if BEGIN in text else []
    marked = [fence[2] if (fence := _FENCE.search(body)) else body for body in marked]
    bare = [body for label, body in fences if not label]
    whole = [text] if text.strip() and output_type != "JSON" else []
    return [labelled, marked, bare, whole]


def _behind_begin(text: str) -> str:
    """What stands between the marks of the code, the second of which may be missing; else the text."""
    return text.split(BEGIN, 1)[-1].split(END, 1)[0]


def _amid_prose(text: str) -> Any:
    """The longest JSON object or array in a text that holds anything."""
    decoder = json.JSONDecoder()
    longest, found, end = 0, None, 0
    for brace in list(re.finditer(r"[{\[]", text))[:_LONGEST_SEARCH]:
        if brace.start() < end:
            continue
        try:
            data, end = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if data and end - brace.start() > longest:
            longest, found = end - brace.start(), data
    return found


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)  # not libyaml's, which a deep nesting can kill
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _toml(text: str) -> Any:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _xml(text: str) -> Any:
    from xml.parsers.expat import ExpatError

    import xmltodict  # type: ignore[import-untyped]

    try:
        return xmltodict.parse(text.strip(), disable_entities=True)
    except (ExpatError, ValueError, RecursionError):
        return None


def _csv(text: str) -> Any:
    """A header and at least one row, all of the same width, two columns or more."""
    try:
        rows = [row for row in csv.reader(io.StringIO(text.strip()), strict=True) if row]
    except csv.Error:
        return None
    if len(rows) < 2 or len(rows[0]) < 2 or {len(row) for row in rows} != {len(rows[0])}:
        return None
    return {"csv_headers": [name.strip() for name in rows[0]], "csv_rows": rows[1:]}


def _csv_original(text: str) -> Any:
    """Any text is one."""
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error:
        return None
    return {"csv_headers": rows[0] if rows else [], "csv_rows": rows[1:]}


def _toml_original(text: str) -> Any:
    """As the package `toml` 0.10.2 reads it: arrays of one type only, and bare keys in any letters."""
    data = _toml(_BARE_KEY.sub(r'\1"\2"', text))
    return None if data is None or _has_mixed_array(data) else data


def _has_mixed_array(data: Any) -> bool:
    if isinstance(data, dict):
        return any(map(_has_mixed_array, data.values()))
    return isinstance(data, list) and (len(set(map(type, data))) > 1 or any(map(_has_mixed_array, data)))


def _of_several(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Scalars are not documents."""

    def reader(text: str) -> Any:
        data = read(text)
        return data if isinstance(data, dict | list) else None

    return reader


_ORIGINAL_READERS: dict[str, Callable[[str], Any]] = {
    "JSON": _json,
    "YAML": _yaml,
    "TOML": _toml_original,
    "XML": _xml,
    "CSV": _csv_original,
}
_READERS = {name: _of_several(read) for name, read in (_ORIGINAL_READERS | {"TOML": _toml, "CSV": _csv}).items()}
