"""The number that a model which judges gives: one line `score: <number>`, from 0 to 1."""

import re
import unicodedata

from orchestrator.asking.thoughts import split_thought

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d{1,3})?"
# What may stand before the label: the start of a line or of a JSON field, the end of a clause, or one of these words.
# `underscore: 1`, `max_score: 1` and `maximum score: 10` are other labels.
_WORD = r"\b(?:final|overall|total|my|your|the|so|thus|therefore|hence)[ \t]+"
_BEFORE = rf"(?:^|[,.;:!?(){{}}|。、]|{_WORD})[ \t\"'*_`#>\[(-]{{0,20}}"
_LABEL = re.compile(rf"{_BEFORE}score[\"'*_`]{{0,5}}\s{{0,5}}[:=]", re.IGNORECASE | re.MULTILINE)
_OPEN = r"[\s\"'*_`$(\[{]{0,20}(?:\\boxed\{)?"
_CLOSE = r"[\"'*_`$)\]}]{0,20}"
_VALUE = re.compile(
    rf"{_OPEN}({_NUMBER}){_CLOSE}(?:[ \t]*(%)|[ \t]*(?:/|out of|of)[ \t]*{_OPEN}({_NUMBER}){_CLOSE})?(?P<rest>[^\n]*)",
    re.IGNORECASE,
)
# What continues as a number (`1.0.0`, `1,5`, `1-2`, `1/2/3`) or as a word (`1 or 0`, `1 if …`) is not a verdict.
_REST = re.compile(
    r"[ \t]{0,20}(?:[.,;:!?)\]}\"'*_`|。、]++(?!\d).*|[ \t]{1,20}[(\[–—-](?![ \t]*\d).*|[ \t]{1,20}points?[.!]?)?",
    re.DOTALL,
)
_SIGNS = str.maketrans({"−": "-", "–": "-", "﹣": "-", "⁄": "/", "∕": "/", "％": "%"})


def read_score(reply: str) -> float | None:
    """The judge's number, from 0 to 1; None where its last `score:` says none, so that it is asked again.

    Taken: `score: 1`, `Score = .5`, `**score:** 1e0`, `{"score": 1}`, full width, and shares, `7/10`, `7 out of 10`,
    `85 %`. Not taken: what lies outside 0 to 1 (`-1`, `10`: of how many?), NaN, two numbers (`1 or 0`, `0-1`, `1,5`), a
    sentence that continues after the number (`score: 1 if …`), other labels (`underscore: 1`, `max_score: 1`), and what
    stands in the judge's thoughts.
    """
    text = unicodedata.normalize("NFKC", split_thought(reply)[1] or "").translate(_SIGNS)
    labels = list(_LABEL.finditer(text))
    found = _VALUE.match(text, labels[-1].end()) if labels else None
    if found is None or not _REST.fullmatch(found["rest"]):
        return None
    value, whole = float(found[1]), 100.0 if found[2] else float(found[3] or 1)
    return value / whole if whole > 0 and 0 <= value <= whole else None
