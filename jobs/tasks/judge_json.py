"""JSON as judges write it: values out of a reply, LaTeX kept, and where an object is broken, how far it goes.

Nothing here decides; `jobs.tasks.verdicts` does. All of it takes time linear in the reply.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_OBJECTS = 32  # in one reply; more is not a verdict, and each would cost a decoding
SHIELD = "\ufdd0"  # stands for a backslash that is LaTeX's; a code point that no text uses
OBJECT = "\ufdd1"  # stands for an object that was taken out

# After \n, \t and \r a letter may begin a new line's word as well, so there the whole command must be known. Left out:
# \ni and \nmid, which are words.
_COMMANDS = (
    r"nabla|natural|ncong|ne|nearrow|neg|neq|newline|nexists|ngeq|nleq|nolimits|nonumber|"
    r"normalsize|not|notin|nparallel|nrightarrow|nsim|nsubseteq|nu|nwarrow|rVert|rangle|rbrace|"
    r"rbrack|rceil|real|rfloor|rho|right|rightarrow|rightharpoonup|rightleftharpoons|"
    r"risingdotseq|rm|root|rtimes|rvert|tag|tan|tanh|tau|tbinom|text|textbf|textit|textrm|"
    r"textsf|textstyle|textsubscript|textsuperscript|texttt|tfrac|therefore|theta|thicksim|"
    r"thinspace|tilde|times|to|top|triangle|triangleq"
)
_ESCAPE = re.compile(
    r"\\(?:"
    rf"(?P<latex>[bf](?=[A-Za-z])|(?:{_COMMANDS})(?![A-Za-z]))"
    r'|(?P<json>["\\/bfnrt]|u[0-9a-fA-F]{4}))?'
)
_COMMA_TOO_MANY = re.compile(r'"(?:[^"\\]|\\.)*+"|,(?=\s*[}\]])', re.DOTALL)
_FENCED = re.compile(r"\A```[\w-]*[ \t]*\n(.*)\n[ \t]*```\Z", re.DOTALL)
_QUOTE = "[\"'“”‘’`]"
# Not every brace: LaTeX and sets are full of them. An object begins with a key, in quotes or one of a judge's.
_OPENING = re.compile(
    rf"\{{(?=\s*(?:(?://|#)[^\n]{{0,200}}\n\s*)?"
    rf"(?:{_QUOTE}[^\"'“”‘’`\n]{{1,64}}{_QUOTE}|correct|reasoning|confidence|extracted_final_answer)\s*[:：])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """An object within a reply: text[start:end]."""

    start: int
    end: int
    values: dict[str, Any] | None  # None: broken
    closed: bool = True  # whether its braces balance


def shield(text: str) -> str:
    """The reply, as long as before, with SHIELD for each backslash that JSON misreads or refuses: \\frac, \\(, \\nu.

    `\\f` and `\\b` before a letter are always LaTeX: a verdict contains no form feed and no backspace.
    """
    text = text.replace(SHIELD, "\ufffd").replace(OBJECT, "\ufffd")
    return _ESCAPE.sub(lambda match: match[0] if match["json"] else SHIELD + match[0][1:], text)


def unshield(text: str) -> str:
    return text.replace(SHIELD, "\\")


def whole(text: str) -> Any:
    """The value that a whole shielded reply is, within one fence or not; None where it is not a value, or null."""
    text = text.strip()
    if fenced := _FENCED.match(text):
        text = fenced[1].strip()
    if text.startswith('{\\"'):  # an object that was escaped as if for a string
        text = f'"{text}"'
    if not text.startswith(("{", "[", '"')):
        return None
    for candidate in (text, _without_last_commas(text)):
        decoded = _decode(candidate, 0)
        if decoded and decoded[1] == len(text):
            return decoded[0]
    return None


def pieces(text: str) -> Iterator[Piece]:
    """The outermost objects of a shielded reply in their order, the broken ones as far as their braces go.

    What lies inside a broken object is never a piece of its own. At most MAX_OBJECTS; then one that is not closed.
    """
    mended: str | None = None
    opening, count = _OPENING.search(text), 0
    while opening:
        start, count = opening.start(), count + 1
        if count > MAX_OBJECTS:
            yield Piece(start, len(text), None, closed=False)
            return
        decoded = _decode(text, start)
        if decoded is None:
            mended = mended or _without_last_commas(text)
            decoded = _decode(mended, start)
        if decoded:
            piece = Piece(start, decoded[1], decoded[0])
        else:
            end = _closing_brace(text, start)
            piece = Piece(start, end or len(text), None, closed=end is not None)
        yield piece
        opening = _OPENING.search(text, piece.end)


def is_brace(text: str, place: int) -> bool:
    """Whether a brace counts; LaTeX's \\{ need not be closed."""
    return place == 0 or text[place - 1] not in (SHIELD, "\\")


def _decode(text: str, start: int) -> tuple[Any, int] | None:
    try:
        return json.JSONDecoder(strict=False, object_pairs_hook=_lower_keys).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None


def _without_last_commas(text: str) -> str:
    """As long as before, with a space for each comma before a closing bracket."""
    return _COMMA_TOO_MANY.sub(lambda match: match[0] if match[0] != "," else " ", text)


def _closing_brace(text: str, start: int) -> int | None:
    """The place after the brace that closes the one at `start`, whatever the quotes say; None if nothing does."""
    depth = 0
    for brace in re.compile("[{}]").finditer(text, start):
        if is_brace(text, brace.start()):
            depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.end()
    return None


def _lower_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON objects with lower-case keys; a key that is given twice with different values is not a statement at all."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        name = key.strip().lower()
        values[name] = value if values.get(name, value) == value else None
    return values
