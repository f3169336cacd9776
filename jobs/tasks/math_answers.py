"""Compares mathematical answers by math-verify, as the Swallow suite does, in a process that a deadline kills.

Facts of the original: the answer is sought among boxes and LaTeX and plain numbers, a box first; any reading of the
reference may equal any of the answer; floats are rounded to five digits.
"""

import re
from fractions import Fraction
from typing import Any, Literal

from jobs.tasks.answers import boxed, read_answer, without_thinking
from jobs.tasks.numbers import number
from jobs.tasks.scoring_process import CallFailed, CallTimedOut, ScoringProcess

DEADLINE = 10.0  # seconds for one comparison, which takes 7 ms on average
STEP = 5  # seconds for each of math-verify's own steps
DIGITS = 5  # that floats are rounded to
DIGITS_OF_WHOLE_NUMBERS = 12
RELATIVE_TOLERANCE = Fraction(2, 10**5)  # 0.33333 is 1/3; the original's five places make 0.000067 equal 0.000068

GoldKind = Literal["latex", "number"]

_FORMULA = re.compile(
    r"\$\$.*?\$\$|\$[^$\n]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}", re.DOTALL
)
_PERCENT = re.compile(r"(?<=\d)\s*\\%")
_BASE_OR_POWER = re.compile(  # 52_8; 15\\text{ cm}^2
    r"(?:(?<=\d)_|\\(?:text|mbox|textrm|mathrm)\s*\{[^{}]*\}\s*\^)\s*\{?(\d+)"
)
_HOPE = re.compile(r"[.。]?\s*I hope\b.*$", re.DOTALL)


def stated_answer(response: str) -> str | None:
    """The content of the last box, else what a label or a sentence states; None where nothing is stated."""
    text = without_thinking(response)
    if found := boxed(text):
        return found
    stated = read_answer(text)[0]
    if stated is None or "\\boxed" in stated or "\\fbox" in stated:  # a box that was cut off
        return None
    return _HOPE.sub("", stated).strip() or None


def framed(stated: str) -> str:
    """A stated answer as math-verify wants it."""
    return stated if "$" in stated or "\\(" in stated or "\\[" in stated else rf"$\boxed{{{stated}}}$"


def agree(gold: str, kind: GoldKind, answer: str, digits: int = DIGITS) -> tuple[bool, str]:
    """Whether math-verify finds the reference in the answer, and why it could not say, if so. Never raises."""
    if not answer.strip():
        return False, ""
    try:
        return _PROCESS.call(DEADLINE, compare, gold, kind, answer, digits), ""
    except CallTimedOut:
        return False, f"the comparison took longer than {DEADLINE:g} s"
    except CallFailed as error:
        return False, f"the comparison failed: {error}"


def contradict(stated: str, gold: str) -> bool:
    """Whether two answers that math-verify may call equal are not: it drops the base of a number and the power of a
    unit, and rounds small numbers to nothing."""
    first, second = number(stated), number(gold)
    if first is not None and second is not None:
        return abs(first - second) > RELATIVE_TOLERANCE * max(abs(first), abs(second))
    marks, others = _BASE_OR_POWER.findall(stated), _BASE_OR_POWER.findall(gold)
    return bool(marks and others and marks != others)


def compare(gold: str, kind: GoldKind, answer: str, digits: int) -> bool:
    """`agree` within the process. Floats are rounded to `digits`."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    of_gold: list[Any] = [LatexExtractionConfig() if kind == "latex" else ExprExtractionConfig()]
    of_answer = [ExprExtractionConfig(), LatexExtractionConfig(boxed_match_priority=0)]
    reference = parse(with_fractions_for_percent(gold), of_gold, parsing_timeout=STEP)
    given = parse(with_fractions_for_percent(answer), of_answer, parsing_timeout=STEP)
    return bool(verify(reference, given, float_rounding=digits, timeout_seconds=STEP))


def with_fractions_for_percent(text: str) -> str:
    r"""`10\%` in a formula as a product: the antlr4 4.9.3 that omegaconf pins cannot read `\%`, 4.13.2 can."""
    return _FORMULA.sub(lambda formula: _PERCENT.sub(r"\\cdot\\frac{1}{100}", formula[0]), text)


def import_math_verify() -> None:
    compare("$1$", "latex", "$1$", DIGITS)


_PROCESS = ScoringProcess(warm=import_math_verify)
