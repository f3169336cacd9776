"""Confidences in whole percent, in the ways that models and judges write them."""

import re
import unicodedata
from collections.abc import Mapping

from jobs.tasks.characters import visible

LARGEST_CONFIDENCE = 2**53  # above, integers and floats part
_LONGEST = 300  # characters that are read
_MOST_WORDS = 60  # characters before the number

_NUMBER = r"-?(?:\d+(?:[.,]\d+)?|[.,]\d+)(?:[eE][+-]?\d{1,3})?"
_UNIT = r"(?:\\?%|percent\b|per ?cent\b|pct\b|パーセント)"
_ABOUT = (
    r"(?:about|around|approximately|approx\.?|roughly|nearly|almost|over|at least|at most|more than|less than|only|"
    r"circa|ca\.|c\.|is|was|およそ|おおよそ|だいたい|大体|約|ほぼ|[~≈≃∼>≥<≤=+:])"
)
_DRESS = r"[\s*_`\"'$(\[{<「『【]|\\[(\[]|\\(?:boxed|text|mathrm|mathbf)\{"
_ASIDE = re.compile(rf"{_DRESS}|{_ABOUT}", re.IGNORECASE)
_STATED = re.compile(
    rf"(?P<number>{_NUMBER})[ \t]*"
    rf"(?:(?P<unit>{_UNIT})|(?P<tenths>割)(?:(?P<hundredths>\d)分)?"
    rf"|(?:/|out of|of|in)[ \t]*(?P<whole>\d{{1,4}}(?:\.0+)?)(?![\d.,])[ \t]*{_UNIT}?)?"
    r"(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_RANGE = re.compile(rf"[ \t]*{_UNIT}?[ \t]*(?:[-‐‑‒–—―−~〜～]|to\b|or\b|and\b|から|[,;]|\.\.)[ \t]*\d", re.IGNORECASE)
_DIGITS = {sign: value for value, sign in enumerate("〇一二三四五六七八九")}
_KANJI = re.compile("[〇一二三四五六七八九十百]+(?=パーセント|%|割)")
_NAMES = re.findall(
    r"\w+",
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred""",
)
_VALUES = dict(zip(_NAMES, [*range(20), *range(20, 101, 10)], strict=True))
_SPELLED = re.compile(
    rf"\b(?:(?:one |a )?(hundred)|({'|'.join(_NAMES[20:28])})(?:[ -]({'|'.join(_NAMES[1:10])}))?"
    rf"|({'|'.join(_NAMES[:20])}))(?=[ -]*{_UNIT})",
    re.IGNORECASE,
)


def percent(value: object) -> int | None:
    """A confidence in whole percent out of 85, 85.0, 0.85, "85%", "8/10", "9割" or "about 85 %"; None where there is
    none.

    A fraction of one is taken as such if it is written with a point: 0.85, and 1.0 for certainty; 1 and "1%" are one
    percent. A range (90-95%) is not a statement. Values outside 0 to 100 are kept and counted where scores are made.
    A list or an object with one number in it counts as that number.
    """
    if isinstance(value, str):
        return _stated(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        return percent(value[0]) if not isinstance(value[0], list | tuple | Mapping) else None
    if isinstance(value, Mapping):
        inner = [part for part in value.values() if not isinstance(part, list | tuple | Mapping)]
        found = [number for number in map(percent, inner) if number is not None]
        return found[0] if len(found) == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _whole(value, fraction=isinstance(value, float))


def _stated(text: str) -> int | None:
    text = unicodedata.normalize("NFKC", visible(text[:_LONGEST])).replace("−", "-").strip()
    text = _SPELLED.sub(_spelled, _KANJI.sub(lambda found: str(_kanji(found[0])), text))
    found = _STATED.search(text)
    if not found or _RANGE.match(found["rest"]) or found["rest"][:1] in tuple("0123456789"):
        return None
    words = _ASIDE.sub("", text[: found.start()]).strip()
    if len(words) > _MOST_WORDS or (words and not (found["unit"] or found["whole"] or found["tenths"])):
        return None  # "high, for 3 reasons"
    number = float(found["number"].replace(",", "."))
    if found["tenths"]:
        return _whole(number * 10 + int(found["hundredths"] or 0), fraction=False)
    if whole := float(found["whole"] or 0):
        return _whole(number / whole * 100, fraction=False)
    return _whole(number, fraction=not found["unit"] and not found["number"].lstrip("-").isdigit())


def _whole(value: float, *, fraction: bool) -> int | None:
    if not abs(value) <= LARGEST_CONFIDENCE:  # not-a-number too
        return None
    return round(value * 100 if fraction and 0 < value <= 1 else value)


def _spelled(found: re.Match[str]) -> str:
    return str(sum(_VALUES[name.lower()] for name in found.groups() if name))


def _kanji(text: str) -> int:
    total = digit = 0
    for sign in text:
        if sign in _DIGITS:
            digit = digit * 10 + _DIGITS[sign]
        else:
            total, digit = total + (digit or 1) * (10 if sign == "十" else 100), 0
    return total + digit
