"""Comparing an answer with a reference by rule.

The comparison is conservative: notation may differ (LaTeX, case of words, white space, number formats), content may
not. One text is never searched inside another.
"""

import re

from jobs.tasks import choices
from jobs.tasks.chemistry import formula
from jobs.tasks.notation import has_words, normalise
from jobs.tasks.numbers import quantity

LONGEST_ANSWER = 2000  # characters; HLE's references are far shorter, a repetition loop is far longer
_MOST_PARTS = 50  # of a list
_DEEPEST = 4  # lists within lists

_NAMED = re.compile(r"(?:[^\W\d_](?:_\(\w+\))?|[^\W\d_]\([^\W_,]{1,3}\))[=∈](?=[^=])([^=∈]+)")


def equivalent(answer: str, gold: str, answer_type: str) -> bool:
    """Whether `answer` is the reference `gold`, by the option's label (multipleChoice) or by notation and number.

    Whole numbers and ratios of them must be the same number, other decimals agree to a millionth. `x = 5` is `5` where
    only one side names a variable. In a set in braces the order is free, everywhere else it counts.
    """
    if len(answer) > LONGEST_ANSWER:
        return False
    if answer_type == "multipleChoice" and (label := choices.labels(gold)):
        return choices.chosen(answer, like=label) == label or _same_free_text(answer, gold, label)
    return _same(normalise(answer), normalise(gold), 0)


def _same_free_text(answer: str, gold: str, label: frozenset[str]) -> bool:
    """References that may be a number or a word as well as a label: 12, アイ."""
    return not any(part.isascii() and part.isalpha() for part in label) and normalise(answer) == normalise(gold)


def _same(left: str, right: str, depth: int) -> bool:
    if left == right:
        return True
    if not has_words(left) or not has_words(right):
        return False
    first, second = quantity(left), quantity(right)
    if first and second:
        return first.same(second)
    if depth < _DEEPEST and (_same_lists(left, right, depth) or _same_but_for_name(left, right)):
        return True
    chemical = formula(left)
    return chemical is not None and chemical == formula(right)


def _same_but_for_name(left: str, right: str) -> bool:
    """`x=5` and `5`, `y=2x` and `2x`, `x∈[0,1]` and `[0,1]`; never `x=5` and `y=5`."""
    first, second = _NAMED.fullmatch(left), _NAMED.fullmatch(right)
    if bool(first) == bool(second):
        return False
    return _same(first[1] if first else left, second[1] if second else right, _DEEPEST - 1)


def _same_lists(left: str, right: str, depth: int) -> bool:
    first, second = _parts(left), _parts(right)
    if not first or not second or first[0] != second[0] or len(first[1]) != len(second[1]):
        return False
    if first[0].startswith("{"):
        return _same_sets(first[1], second[1], depth)
    return all(_same(one, other, depth + 1) for one, other in zip(first[1], second[1], strict=True))


def _same_sets(left: list[str], right: list[str], depth: int) -> bool:
    rest = list(right)
    for one in left:
        place = next((number for number, other in enumerate(rest) if _same(one, other, depth + 1)), None)
        if place is None:
            return False
        rest.pop(place)
    return True


def _parts(text: str) -> tuple[str, list[str]] | None:
    """The brackets and the separator of a list, and its members; None for what is not a list."""
    frame = ""
    if text[:1] in "([{" and text[-1:] in ")]}" and _matching(text) == len(text) - 1:
        frame, text = text[0] + text[-1], text[1:-1]
    separator = ";" if ";" in text else ","
    members, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == separator and depth == 0:
            members.append(text[start:place])
            start = place + 1
    members.append(text[start:])
    if len(members) > _MOST_PARTS or (len(members) == 1 and not frame):
        return None
    return frame + separator, members


def _matching(text: str) -> int:
    """Where the bracket that `text` begins with closes; kinds may differ, as in (0, 1]."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return place
    return -1
