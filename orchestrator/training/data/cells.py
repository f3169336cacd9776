"""What a field of a training row holds: nothing, a text, or what makes its row unfit."""

import re
from decimal import Decimal
from math import isfinite
from typing import Any

LONGEST_SHOWN = 60  # characters of a name or value in a message
EXACT_FLOAT = 2**53  # above, floats skip whole numbers
EMPTY_LITERALS = frozenset({"[]", "{}", "null", "None", '""'})  # how text columns write "no tools", "no images"
YES = frozenset({"1", "1.0", "true", "yes"})
NO = frozenset({"0", "0.0", "false", "no"})


class UnfitError(Exception):
    """This row cannot be trained on. `reason` is the kind, the message says what exactly."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def missing(value: object) -> bool:
    """Whether nothing is there: None, not-a-number, an infinity, or a text without a visible character.

    pandas writes NaN, and CSV files write blanks, where a field has no value.
    """
    if isinstance(value, str):
        return not any(map(_visible, value))
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, Decimal):
        return not value.is_finite()
    return value is None


def _visible(letter: str) -> bool:
    broken = "\ud800" <= letter <= "\udfff"  # half of a pair is something, if nothing that can be stored
    return broken or (letter.isprintable() and not letter.isspace())


def nothing(value: object) -> bool:
    """Whether an optional field is as good as absent: missing, an empty list or object, or the text of one."""
    if isinstance(value, list | tuple | dict):
        return not value
    return missing(value) or (isinstance(value, str) and value.strip() in EMPTY_LITERALS)


def text(value: object, where: str) -> str:
    """The value, if it is a text that can be trained on and stored. Raises UnfitError; `where` names the field."""
    if isinstance(value, str) and not encodable(value):  # half of a surrogate pair: JSON can hold it, Parquet cannot
        raise UnfitError("not text", f"{where} holds a broken character")
    if missing(value):
        raise UnfitError("empty text", f"{where} is empty")
    if not isinstance(value, str):
        raise UnfitError("not text", f"{where} is a {type(value).__name__}, expected text")
    return value


def field(row: Any, column: str) -> str:
    """The text of a column that must be there. Raises UnfitError."""
    value = row.get(column)
    if missing(value) and not isinstance(value, str):
        raise UnfitError("missing field", f"there is no {column}")
    return text(value, column)


def gold(row: Any, column: str) -> str:
    """The text of a right answer; a number is as good as its text, and 72.0 is 72, of which pandas makes a float."""
    value: Any = row.get(column)
    if isinstance(value, float | Decimal) and not missing(value):
        whole = -EXACT_FLOAT < value < EXACT_FLOAT and value == int(value)
        return str(int(value)) if whole else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return field(row, column)


def encodable(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def yes_or_no(value: object) -> bool | None:
    """What a flag says: true, 1 and "yes", or false, 0 and "no"; None for anything else."""
    word = str(value).strip().casefold()[:8]
    return True if word in YES else False if word in NO else None


def shown(name: object) -> str:
    """A name from outside, for a message: short, and without characters that a terminal would obey."""
    plain = re.sub(r"[^\w.\-+/ ]", "?", str(name).encode("utf-8", "replace").decode())
    return plain if len(plain) <= LONGEST_SHOWN else f"{plain[:LONGEST_SHOWN]}…"
