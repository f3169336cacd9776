"""Reads question, options and the right option out of rows, in the layouts of the hub's multiple-choice data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.tasks.choice_reading import LETTERS
from jobs.tasks.rows import require, text_of, writable


@dataclass(frozen=True, slots=True)
class Choice:
    """A question, its options in their order, and the place of the right one, from 0."""

    question: str
    options: Sequence[str]
    gold: int


def lettered(row: Mapping[str, Any], where: str) -> Choice:
    """The options in columns A to D, the right one's letter in `answer`. Raises ValueError, as all here."""
    options = [text_of(row, letter, where, numbers=(int, float)) for letter in "ABCD"]
    return Choice(text_of(row, "question", where), options, place_of(row, "answer", where, len(options)))


def listed(row: Mapping[str, Any], where: str, options: str = "choices", gold: str = "answer") -> Choice:
    """The options as one list."""
    require(row, options, where)
    values = row[options]
    if isinstance(values, str) or not isinstance(values, Sequence) or not 2 <= len(values) <= len(LETTERS):
        raise ValueError(f"{where}: {options} is not a list of 2 to {len(LETTERS)} options")
    named = {f"{options}[{number}]": value for number, value in enumerate(values)}
    texts = [text_of(named, name, where, numbers=(int, float)) for name in named]
    return Choice(text_of(row, "question", where), texts, place_of(row, gold, where, len(texts)))


def numbered(row: Mapping[str, Any], where: str) -> Choice:
    """The options in columns option_0 to option_9, null where there are fewer; the right one in `answer_index`."""
    names = [f"option_{number}" for number in range(len(LETTERS))]
    require(row, names[0], where)
    present = [name for name in names if row.get(name) not in (None, "")]
    if present != names[: len(present)] or len(present) < 2:
        raise ValueError(f"{where}: option_0 to option_9 are not two or more options with nothing between them missing")
    options = [text_of(row, name, where, numbers=(int, float)) for name in present]
    return Choice(text_of(row, "question", where), options, place_of(row, "answer_index", where, len(options)))


def place_of(row: Mapping[str, Any], field: str, where: str, options: int) -> int:
    """The place of the right option, from 0: a letter, a number, or a number's digits."""
    require(row, field, where)
    value = row[field]
    text = "" if isinstance(value, bool) else writable(str(value)).strip()
    place = LETTERS.find(text) if len(text) == 1 and text.isalpha() else int(text) if text.isdecimal() else -1
    if not 0 <= place < options:
        last = LETTERS[options - 1]
        raise ValueError(
            f"{where}: {field} is {text[:40]!r}, expected a letter A to {last} or a number 0 to {options - 1}"
        )
    return place
