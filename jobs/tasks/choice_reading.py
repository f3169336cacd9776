"""Reads the letter that a response to a multiple-choice question settles on, in two ways.

`read_letter` is ours: a stated answer or none. `extractive_letter` does what lighteval's "indices" do, whose figure
`extractive_match` the Swallow suite reports: it guesses where nothing is stated, and is kept so that figures compare.
"""

import re
import unicodedata
from collections import deque
from functools import cache
from typing import Literal

from jobs.tasks import answers, choices

Language = Literal["en", "ja"]
LETTERS = "ABCDEFGHIJ"  # the most options that a task has

_OTHERS = re.compile(r"^.*の(?:うち|中)(?:では?|から)?[、,]?\s*", re.DOTALL)  # of A, B, C and D, B
_REASON = re.compile(r"[\s,、。.;]*(?:\b(?:because|since)\b|なぜなら|理由は).*", re.DOTALL | re.IGNORECASE)
_ALONE = re.compile(r"[\s*_`$(\[「『【<]*([A-J])[\s*_`$)\]」』】>.。]*")


def read_letter(response: str, letters: str) -> str | None:
    """The one of `letters` that the response states as its answer; None where it states none of them, or several.

    The last line decides where it states one, behind a label or alone; else what `answers.read_answer` finds: the last
    label, a box, a sentence. Full-width and lower-case letters count. A letter inside a word or a text never does.
    """
    text = answers.without_thinking(response).strip()
    last = text.rpartition("\n")[2]
    for part in (last, text):
        letter = _named(answers.read_answer(part)[0])
        if letter is None and part == last and (alone := _ALONE.fullmatch(unicodedata.normalize("NFKC", last))):
            letter = alone[1]
        if letter is not None:
            return letter if letter in letters else None
    return None


def _named(stated: str | None) -> str | None:
    """The letter that a stated answer is, in upper case."""
    if stated is None:
        return None
    stated = stated.strip("$ ")
    for text in (stated, _OTHERS.sub("", stated), _REASON.sub("", stated)):
        found = choices.chosen(text, like=frozenset("a"))
        if found is not None:
            return next(iter(found)).upper() if len(found) == 1 else None
    return None


def extractive_letter(response: str, letters: str, language: Language) -> str | None:
    """The letter that lighteval's patterns find: the first pattern that matches decides, by its last match."""
    for pattern in _patterns(letters, language):
        last = deque(pattern.finditer(response), maxlen=1)
        if last:
            return last[0]["letter"]
    return None


@cache
def _patterns(letters: str, language: Language) -> tuple[re.Pattern[str], ...]:
    """By falling priority: 0 and 50 (English), 100, 150, 200, 250, 300.

    Japanese has no space between words, so that anything may stand around a letter there. `^` and `$` are the ends of
    the response, and a dot stops at a line's end.
    """
    letter = f"(?P<letter>[{letters}])"
    word, colon, space, marks = {
        "en": ("(?i:answer)", ":", " ", ".,:"),
        "ja": ("(?i:回答)", "[:：]", "", ".,:。、："),
    }[language]
    after = rf"(?:\*\*)?(?:[{marks}]|{space}|$)"
    delimited = rf"(?:^|{space})(?:\*\*)?{letter}{after}"
    english = (
        rf"(?i:final answer is):?\s*{letter}\.?\s*I hope",
        rf"(?i:final answer.{{0,100}}?)\s+is:?\s*{letter}",
    )
    shared = (
        f"{word}{colon}.{{0,50}}?{delimited}",
        f"{word}.{{0,50}}?{delimited}",
        rf"^(?:\*\*)?{letter}{after}",
        delimited,
        letter,
    )
    return tuple(re.compile(pattern) for pattern in (*(english if language == "en" else ()), *shared))
