"""Reads the fields of a data set's rows, with messages that name the row, the field and what was found."""

import math
from collections.abc import Mapping
from typing import Any


def require(row: Mapping[str, Any], field: str, where: str) -> None:
    """Raise ValueError where a row lacks a field; `where` names the row."""
    if field in row:
        return
    columns = [str(name) for name in getattr(row, "columns", row)]  # a reader may have left out unused columns
    shown = ", ".join(name[:60] for name in columns[:12]) + (", …" if len(columns) > 12 else "")
    near = next((name for name in columns if name.strip().lower() == field), None)
    advice = f"; rename {near!r} to {field!r}" if near else ""
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        advice = "; separate the columns by commas"
    raise ValueError(f"{where} has no field {field!r}; it has {' '.join(shown.split())}{advice}")


def text_of(row: Mapping[str, Any], field: str, where: str, numbers: tuple[type, ...] = ()) -> str:
    """A required field's text; numbers only where a reader may have made some out of digits."""
    require(row, field, where)
    value = row[field]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {field} is {value} (not a number), expected text")
    if isinstance(value, numbers) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        seen = "null" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{where}: {field} is {seen}, expected text")
    if not value.strip():
        raise ValueError(f"{where}: {field} is empty")
    return writable(value)


def writable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can escape and no UTF-8 log can hold."""
    return text.encode(errors="replace").decode()
