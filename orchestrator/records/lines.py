"""One record as one line of a log: what may be read as one, and how one is written whatever it holds.

A log may hold lines of others: other tools', half lines after a power failure, an editor's. What lacks a field that its
readers need, or has it in another type, is not a record; it is skipped, and its item counts as not recorded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_judge(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("model")) and {"prompt_sha256", "sampling"} <= value.keys()


# What readers take for given. Fields that only people read are not here, nor usage, which earlier versions recorded in
# whatever shape a server sent.
_PREDICTION: Mapping[str, Check] = {
    "id": _is_text,
    "sample": _is_index,
    "status": lambda value: value in ("ok", "truncated", "failed"),
    "reason": _is_text_or_none,
    "response": _is_text_or_none,
    "started_at": _is_text,
    "seconds": _is_number,
    "model": _is_text,
    "fingerprint": _is_text,
    "spec": _is_text,
}
_JUDGEMENT: Mapping[str, Check] = {
    "id": _is_text,
    "sample": _is_index,
    "prediction": _is_text,
    "verdict": lambda value: value in ("yes", "no", "unjudged"),
    "extracted_answer": _is_text_or_none,
    "reasoning": _is_text_or_none,
    "confidence": lambda value: value is None or _is_number(value),
    "judge": _is_judge,
}
_LATER: Mapping[str, Check] = {  # earlier versions did not write these
    "provenance": lambda value: isinstance(value, dict),
    "adapted": lambda value: isinstance(value, list),
    "reference": _is_text,
}


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A record from its line, or None if the line is damaged or none of ours."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict):
        return None
    checks = _JUDGEMENT if "verdict" in record else _PREDICTION
    fits = all(name in record and check(record[name]) for name, check in checks.items())
    later = all(check(record[name]) for name, check in _LATER.items() if name in record)
    return record if fits and later else None


def format_line(record: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """A record's line, and the record that the line holds.

    What no JSON of ours can hold, a number of 65 bits or half of an emoji, is not worth its neighbours: such a record
    becomes a failed prediction, or an answer that is not judged, which says why. It is asked again by the next command.
    Raises TypeError where the fields that name the record are of that kind.
    """
    try:
        return dict(record), orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as error:  # orjson.JSONEncodeError is one
        failed = _failed(record, f"it cannot be recorded: {error}")
        return failed, orjson.dumps(failed, option=orjson.OPT_APPEND_NEWLINE)


def _failed(record: Mapping[str, Any], why: str) -> dict[str, Any]:
    """The same record without what cannot be written."""
    kept = {name: value if _is_writable(value) else None for name, value in record.items()}
    if "verdict" in record:
        return kept | {"verdict": "unjudged", "reason": why}
    return kept | {"status": "failed", "reason": "5xx", "detail": why, "response": None}


def _is_writable(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
