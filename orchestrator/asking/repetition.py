"""Finds the loop in an answer that ran into its token limit.

A chat reply carries no token ids, so tokens are approximated: a word, one digit, one CJK character, one sign (up to
eight equal signs in a row are one token, as in real vocabularies; otherwise the rule of a table would be a loop).
"""

import re

WINDOW = 512  # tokens at the end of the text that are checked
PERIODS = range(1, 129)
REPEATS = 3
# Rules, ellipses and empty table rows repeat one to three signs by right: so short a period must fill this many tokens.
SHORT_PERIOD = 4
SHORT_FILLS = 128

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]|\d|[^\W\d_{_CJK}]+|([^\w\s]|_)\1{{0,7}}")
_TAIL = 16 * WINDOW  # characters: enough for the window, tokens are rarely longer than 16


def has_loop(text: str) -> bool:
    """Whether the last 512 tokens hold a block of 4–128 tokens three times, or a shorter one 128 tokens long."""
    tokens = [match[0] for match in _TOKEN.finditer(text[-_TAIL:])][-WINDOW:]
    return any(_has_period(tokens, period) for period in PERIODS)


def _has_period(tokens: list[str], period: int) -> bool:
    """Look for `period` repeating often enough, at a cost of n / period comparisons where it does not repeat.

    A stretch that long holds `needed` places in a row which equal the one a period before, so checking every
    `needed`-th place cannot miss it.
    """
    length = SHORT_FILLS if period < SHORT_PERIOD else REPEATS * period
    needed = length - period
    for place in range(period + needed - 1, len(tokens), needed):
        if tokens[place] == tokens[place - period]:
            start, end = _stretch(tokens, place, period)
            if end - start >= needed and not _is_short(tokens[start - period : start], period):
                return True
    return False


def _stretch(tokens: list[str], place: int, period: int) -> tuple[int, int]:
    """The places around `place` that equal the one a period before, as a half-open range."""
    start, end = place, place + 1
    while start > period and tokens[start - 1] == tokens[start - 1 - period]:
        start -= 1
    while end < len(tokens) and tokens[end] == tokens[end - period]:
        end += 1
    return start, end


def _is_short(block: list[str], period: int) -> bool:
    """Whether a block of 4 or more tokens is itself a repeated short one, which has its own rule."""
    short = range(1, min(SHORT_PERIOD, period))
    return period >= SHORT_PERIOD and any(block == (block[:q] * period)[:period] and period % q == 0 for q in short)
