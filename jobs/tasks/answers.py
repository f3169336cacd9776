"""Reading a final answer out of a response, and comparing it with a reference by rule.

The comparison is conservative: notation may differ (LaTeX, case, white space, number formats), content may not.
One text is never looked for inside another.
"""

import math
import re
import unicodedata

LONGEST_ANSWER = 2000  # characters; HLE's references are far shorter, a repetition loop is far longer
RELATIVE_TOLERANCE = 1e-6
LARGEST_CONFIDENCE = 2**53  # above, integers and floats part

_ANSWER = r"(?:(?:exact|final|correct)[ \t]+)?answer|最終回答|最終解答|回答|解答|答え|答"
_CONFIDENCE = r"confidence(?:[ \t]+(?:score|level))?|確信度|信頼度|自信度"
_OTHER = r"explanation|rationale|reasoning|説明|理由"
_COLON = r"[ \t*_`]*[:：][ \t]*(?:\*{1,2}(?=[ \t])|\*\*|__)?[ \t]*"
_START = r"^[ \t>*_`#・-]*"
_HASHES = re.compile(r"^####(?!#)[ \t]*([^\w\n]{0,3}\d.*)$", re.MULTILINE)  # a heading has no number there
_LABEL_LINE = re.compile(rf"{_START}(?:{_ANSWER}){_COLON}(.*)$", re.IGNORECASE | re.MULTILINE)
_LABEL_INLINE = re.compile(rf"(?<![^\W_])(?:{_ANSWER}){_COLON}(.*)$", re.IGNORECASE | re.MULTILINE)
_NEXT_LABEL = re.compile(rf"{_START}(?:{_ANSWER}|{_CONFIDENCE}|{_OTHER}){_COLON}", re.IGNORECASE | re.MULTILINE)
_CONFIDENCE_INLINE = re.compile(rf"[*_`]*(?<![^\W_])(?:{_CONFIDENCE}){_COLON}", re.IGNORECASE)
_CONFIDENCE_VALUE = re.compile(rf"(?:{_CONFIDENCE}){_COLON}[$(約 ]*(-?\d+(?:\.\d+)?[ \t]*\\?%?)", re.IGNORECASE)


def without_thinking(text: str) -> str:
    """What follows a model's thoughts; "" when they never end."""
    _, closed, rest = text.rpartition("</think>")
    if closed:
        return rest
    return "" if "<think>" in text else text


def percent(value: object) -> int | None:
    """A confidence in whole percent out of 85, 85.0, 0.85, "85%" or "85.0 %"; None where there is none.

    A plain number strictly between 0 and 1 is taken as a fraction. Values outside 0 to 100 are kept: they are counted
    where scores are made.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*(\\?%)?\s*", unicodedata.normalize("NFKC", value))
        return _whole(float(match[1]), fraction=not match[2]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _whole(value, fraction=True)


def read_answer(response: str) -> tuple[str | None, int | None]:
    """The stated final answer and confidence (percent); None for what is not stated.

    The last label `Answer:` (also `Exact Answer:`, `Final Answer:`, 回答, 答え; bold or not) decides, at the start of a
    line if there is such a one; without any label the last \\boxed{…}, or else what follows GSM8K's last `####`.
    """
    text = without_thinking(response)
    confidences = _CONFIDENCE_VALUE.findall(unicodedata.normalize("NFKC", text))
    return _final_answer(text), percent(confidences[-1]) if confidences else None


def equivalent(answer: str, gold: str, answer_type: str) -> bool:
    """Whether `answer` is the reference `gold`, by choice letter (multipleChoice) or by normalised text and number."""
    if len(answer) > LONGEST_ANSWER:
        return False
    if answer_type == "multipleChoice" and (letter := _choice(gold)):
        return _choice(answer) == letter
    left, right = normalise(answer), normalise(gold)
    return left == right or _same_number(left, right)


def normalise(text: str) -> str:
    """One notation for texts that differ only in case, width, white space, outer punctuation or LaTeX dress."""
    text = _latex(_unwrap(_unicode(text)))
    text = _ungrouped(_unwrap(re.sub(r"\s+", " ", text)))
    text = re.sub(r" ?([^\w\s]) ?", r"\1", text)  # "x + 1" is "x+1", but "1 2" is not "12"
    return _unwrap(text).casefold()


def _whole(value: float, *, fraction: bool) -> int | None:
    if not abs(value) <= LARGEST_CONFIDENCE:  # not-a-number too
        return None
    return round(value * 100 if fraction and 0 < value < 1 else value)


def _final_answer(text: str) -> str | None:
    for pattern in (_LABEL_LINE, _LABEL_INLINE):
        labels = list(pattern.finditer(text))
        if labels:
            stated = _after_label(text, labels[-1])
            return _boxed(stated) or stated or None
    return _boxed(text) or _after_hashes(text)


def _after_hashes(text: str) -> str | None:
    found = _HASHES.findall(text)
    return found[-1].strip() if found else None


def _after_label(text: str, label: re.Match[str]) -> str:
    """The rest of the label's line, or, where that is empty, the paragraph below it, up to the next label."""
    line = _CONFIDENCE_INLINE.split(label[1], maxsplit=1)[0].strip()
    if line.strip("*_` \t"):
        return _without_bold_end(line)
    below = text[label.end() : label.end() + LONGEST_ANSWER].lstrip()
    below = _NEXT_LABEL.split(below, maxsplit=1)[0]
    return _without_bold_end(re.split(r"\n[ \t]*\n", below, maxsplit=1)[0].strip())


def _without_bold_end(text: str) -> str:
    """`**Answer: 42**` leaves two stars behind the 42."""
    for mark in ("**", "__"):
        if text.endswith(mark) and text.count(mark) == 1:
            return text.removesuffix(mark).strip()
    return text


def _boxed(text: str) -> str | None:
    """The content of the last \\boxed{…}, braces balanced."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, first = 1, start + len("\\boxed{")
    for place in range(first, min(len(text), first + LONGEST_ANSWER)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[first:place].strip() or None
    return None


_LETTER = r"[(\[]?([a-z])[)\]]?"
_CHOICE_PREFIX = re.compile(
    r"(?:(?:the )?(?:correct |final |best )?(?:answer|option|choice)(?: is|:)? ?(?:option |choice )?)"
)
_CHOICE_ALONE = re.compile(rf"{_LETTER}[.):]?")
_CHOICE_WITH_TEXT = re.compile(
    r"(?:[(\[]([a-z])[)\]]|([a-z])[.):])(?! ?(?:or|and|to|through|[,/&+]|[(\[]?[a-z][)\].:])\b).*"
)


def _choice(text: str) -> str | None:
    """The letter of "B", "(B)", "B.", "B) text" or "The answer is B", in lower case; None for anything else."""
    plain = normalise(text).replace("*", "")
    prefix = _CHOICE_PREFIX.match(plain)
    if prefix:
        plain = plain[prefix.end() :].strip()
    match = _CHOICE_ALONE.fullmatch(plain) or _CHOICE_WITH_TEXT.fullmatch(plain)
    return next(filter(None, match.groups()), None) if match else None


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "⁄": "/", "÷": "/", "’": "'", "“": '"', "”": '"'}
)


def _unicode(text: str) -> str:
    """NFKC, except that it must not turn 10² into 102, x₂ into x2 or 3½ into 31/2."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: "^{" + match[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub(r"[₀-₉]+", lambda match: "_{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    return unicodedata.normalize("NFKC", text).translate(_SIGNS)


_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("*", "*"),
)


def _unwrap(text: str) -> str:
    """Without the quotes, dollars, stars or back-ticks that enclose the whole of it, and without a full stop behind."""
    while True:
        inner = text.strip().rstrip(".,;:。、").strip()
        for left, right in _WRAPPERS:
            body = inner[len(left) : len(inner) - len(right)]
            if body and inner == left + body + right and left not in body:
                inner = body
        if inner == text:
            return text
        text = inner


_FONTS = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|mathbb|operatorname|mbox|boxed)\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\[dtc]?frac\{([^{}]*)\}\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt\{([^{}]*)\}")
_SPACES = re.compile(r"\\(?:[;:!, ]|quad\b|qquad\b)|~")
_GREEK = re.compile(
    r"\\(var)?(alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega)\b"
)
_SYMBOLS = {
    r"\times": "*",
    r"\cdot": "*",
    r"\div": "/",
    r"\infty": "∞",
    r"\degree": "°",
    r"^{\circ}": "°",
    r"^\circ": "°",
    r"\leq": "≤",
    r"\geq": "≥",
    r"\neq": "≠",
    r"\pm": "±",
}


def _latex(text: str) -> str:
    text = re.sub(r"(?<=\d)(?:\{,\}|\\,|\\!)(?=\d{3})", ",", text)  # thousands: 1{,}000 and 1\,000
    text = re.sub(r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])", "", text)
    text = re.sub(r"\\[dtc]?frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"√\(([^()]*)\)|√(\d+|[a-z])", lambda match: f"sqrt({match[1] or match[2]})", text)
    for command, sign in _SYMBOLS.items():
        text = re.sub(re.escape(command) + r"(?![A-Za-z])", sign, text)
    text = _GREEK.sub(lambda match: unicodedata.lookup(f"GREEK SMALL LETTER {_greek_name(match[2])}"), text)
    text = _innermost_first(text)
    text = re.sub(r"\$([^$]*)\$", r"\1", text)
    text = _SPACES.sub(" ", text)
    text = re.sub(r"([\^_])\{(-?\w+)\}", r"\1\2", text)
    return re.sub(r"\\([%{}$#&_])", r"\1", text)


def _greek_name(command: str) -> str:
    return "LAMDA" if command == "lambda" else command.upper()


def _innermost_first(text: str) -> str:
    """Fonts, fractions and roots, which nest; each pass takes those without braces inside."""
    for _ in range(10):
        before = text
        text = _FONTS.sub(r"\1", text)
        text = re.sub(r"([\^_])\{(-?\w+)\}", r"\1\2", text)
        text = _FRACTION.sub(lambda match: f"{_group(match[1])}/{_group(match[2])}", text)
        text = _ROOT.sub(lambda match: f"sqrt({match[1]})", text)
        if text == before:
            break
    return text


def _group(text: str) -> str:
    """In parentheses unless it is a single number, letter or root."""
    return text if re.fullmatch(r"\s*(?:\d+(?:\.\d+)?|\w|sqrt\([^()]*\))\s*", text) else f"({text})"


_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_SCIENTIFIC = re.compile(rf"([+-]?{_DECIMAL})(?:e([+-]?\d{{1,3}})|\*10\^[{{(]?([+-]?\d{{1,3}})[}})]?)?(%)?")
_POWER = re.compile(r"([+-]?)10\^[{(]?([+-]?\d{1,3})[})]?")
_RATIO = re.compile(rf"([+-]?)\(?([+-]?{_DECIMAL})\)?/\(?([+-]?{_DECIMAL})\)?")
_THOUSANDS = re.compile(r"([+-]?\d{1,3}(?:,\d{3})+)(?=$|\.|%|e|\*)")


def _same_number(left: str, right: str) -> bool:
    """Whole numbers must be the same number; others may differ by the relative tolerance."""
    if re.fullmatch(r"[+-]?\d+", left) and re.fullmatch(r"[+-]?\d+", right):
        return _canonical_integer(left) == _canonical_integer(right)
    first, second = _number(left), _number(right)
    return first is not None and second is not None and math.isclose(first, second, rel_tol=RELATIVE_TOLERANCE)


def _ungrouped(text: str) -> str:
    """1,234,567 without its commas, where a number is all there is; "1, 234" is a list."""
    match = _THOUSANDS.match(text)
    return match[1].replace(",", "") + text[match.end() :] if match else text


def _canonical_integer(text: str) -> str:
    digits = text.lstrip("+-").lstrip("0") or "0"
    return "-" + digits if text.startswith("-") and digits != "0" else digits


def _number(text: str) -> float | None:
    """The value of a decimal, scientific number, power of ten, percentage or ratio that is the whole of `text`."""
    if match := _SCIENTIFIC.fullmatch(text):
        value = float(f"{match[1]}e{match[2] or match[3] or 0}") / (100 if match[4] else 1)
    elif match := _POWER.fullmatch(text):
        value = float(f"{match[1]}1e{match[2]}")
    elif match := _RATIO.fullmatch(text):
        if float(match[3]) == 0:
            return None
        value = float(match[2]) / float(match[3]) * (-1 if match[1] == "-" else 1)
    else:
        return None
    return value if math.isfinite(value) else None
