"""Looks up StructEval's paths in a parsed document.

`.` separates keys, back-ticks quote a key with dots in it, `[n]` is the place in a list, `*` any element of one,
`csv::name` a column of a table, and `@name` an XML attribute or, where there is none, the child `name`.
"""

import re
from collections.abc import Sequence
from typing import Any

_SEGMENT = re.compile(r"`([^`]*)`((?:\[\d+\])*)|([^.`]+)")
_INDEXED = re.compile(r"([^\[\]]*)((?:\[\d+\])+)")
_ANY = "*"

Step = str | int


def has_path(data: Any, path: str, *, single_is_list: bool = False) -> bool:
    """Whether a document has what a path names; `single_is_list` takes one XML child for a list of one."""
    if path.startswith("csv::"):
        return isinstance(data, dict) and path.removeprefix("csv::") in data.get("csv_headers", ())
    return _found(data, _steps(path), single_is_list)


def _steps(path: str) -> list[Step]:
    steps: list[Step] = []
    for quoted, places, plain in _SEGMENT.findall(path):
        indexed = _INDEXED.fullmatch(plain)
        name, indices = (indexed[1], indexed[2]) if indexed else (plain, "")
        name = f"`{quoted}" if not plain else name  # so that a quoted * is a key
        steps += [name] if name else []
        steps += [int(place) for place in re.findall(r"\d+", places or indices)]
    return steps


def _found(data: Any, steps: Sequence[Step], single_is_list: bool) -> bool:
    if not steps:
        return True
    step, rest = steps[0], steps[1:]
    if isinstance(step, int) or step == _ANY:
        elements = data if isinstance(data, list) else [data] if single_is_list else []
        chosen = elements[step : step + 1] if isinstance(step, int) else elements
        return any(_found(element, rest, single_is_list) for element in chosen)
    if not isinstance(data, dict):
        return False
    names = [step.removeprefix("`")] + ([step[1:]] if step.startswith("@") else [])
    return any(name in data and _found(data[name], rest, single_is_list) for name in names)
