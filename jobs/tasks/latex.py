"""LaTeX, and the plain notation that people type instead, in one linear form: `\\frac{3x}{4}` and `3x/4` are `3x/4`.

Exponents and indices always have parentheses: `x^2` and `x^{2}` are `x^(2)`, while `x^{2y}` is `x^(2y)`.
"""

import re
from collections.abc import Callable

from jobs.tasks.latex_names import (
    ACCENTS,
    DECLARATIONS,
    FONTS,
    FUNCTIONS,
    GREEK,
    IGNORED_ARGUMENT,
    MATRICES,
    SPACES,
    SYMBOLS,
    TRANSPARENT,
)

_TOKEN = re.compile(r"\\[A-Za-z]+\*?\s*|\\.|sqrt(?![A-Za-z])|.", re.DOTALL)
_DEEPEST = 40  # groups within groups

CELL, ROW = "\ue000", "\ue001"
ARRAY = "\ue002\ue003"  # around an array, which has its brackets from the text around it

_ATOM = re.compile(r"(?:\d+(?:\.\d+)?|[^\W\d_]|(?:sqrt|root)\([^()]*\)|°|∞)(?:[\^_]\([^()]*\))*")
_TIGHT = re.compile(r"(?<=[\d)]) (?=[^\W\d_(])|(?<=\d) (?=\()|(?<=[α-ωΑ-Ω]) (?=[^\W\d_(])")  # "5 π" is "5π"
_LOOSE = frozenset("+-±∓=<>≤≥≠≈,;:∪∩∈→| ")  # what binds less than a product does


class TooDeep(ValueError):
    """More groups within groups than any answer has."""


def linear(text: str) -> str:
    """The one form of `text`. Raises TooDeep."""
    return _Reader(text).sequence(0)


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens = _TOKEN.findall(text)
        self._place = 0

    def sequence(self, depth: int, end: str = "") -> str:
        """What follows, up to the token `end`, which is taken too."""
        if depth > _DEEPEST:
            raise TooDeep
        out = ""
        while self._place < len(self._tokens):
            token = self._next()
            if end and token.rstrip() == end:
                return out
            out = self._append(out, token, depth)
        return out

    def _append(self, out: str, token: str, depth: int) -> str:
        if token in "^_":
            return self._scripts(out, token, depth)
        if token == "~" and self._peek().isdigit() and (not out or out[-1] in " (=[,"):
            return f"{out}≈"  # typed for "about"; TeX's is a space between two things
        if token[0] == "\\" and token[1:].strip() in ("frac", "dfrac", "tfrac", "cfrac"):
            return self._fraction(out, depth)
        return out + self._item(token, depth)

    def _next(self) -> str:
        token = self._tokens[self._place] if self._place < len(self._tokens) else ""
        self._place += 1
        return token

    def _peek(self) -> str:
        return self._tokens[self._place].strip() if self._place < len(self._tokens) else ""

    def _skip_spaces(self) -> None:
        while self._place < len(self._tokens) and self._tokens[self._place].isspace():
            self._place += 1

    def _item(self, token: str, depth: int) -> str:
        if token == "{":
            return self._group(depth)
        if token == "sqrt":
            return self._plain_root(depth)
        if token in "√∛":
            return self._plain_root(depth, "3" if token == "∛" else "")
        if token == "~":
            return " "
        if token == "&":
            return CELL
        if token[0] != "\\" or len(token) == 1:
            return token
        return self._command(token[1:].strip().rstrip("*"), depth)

    def _group(self, depth: int) -> str:
        """Braces: TeX's own where a script follows, where they hold a comma of thousands or a font; else a set's."""
        fonts = self._peek().removeprefix("\\") in DECLARATIONS
        body = self.sequence(depth + 1, "}")
        if self._peek() in ("^", "_") and self._peek():
            return body if not body or _ATOM.fullmatch(body) else f"({body})"
        if fonts or re.fullmatch(r"[,.:;']?", body):
            return body
        return f"{{{body}}}"

    def _command(self, name: str, depth: int) -> str:
        if greek := _greek(name):
            return greek
        if name in SYMBOLS:
            return SYMBOLS[name]
        if name in FUNCTIONS:
            if self._peek() == "{":
                return f" {name} {self._argument(depth)}"
            return f" {name} "
        if name in FONTS:
            return self._inside(depth)
        if name in SPACES:
            return " "
        if name in DECLARATIONS:
            if name in ("left", "right") and self._peek() == ".":
                self._next()
            return ""
        if name in _COMMANDS:
            return _COMMANDS[name](self, depth)
        if name in ACCENTS:
            return f"\\{name}({self._argument(depth)})"
        if name in IGNORED_ARGUMENT:
            self._argument(depth)
            return ""
        return _escape(name, self)

    def _inside(self, depth: int) -> str:
        """An argument with its outer spaces, which count in a text."""
        self._skip_spaces()
        if self._peek() == "{":
            self._next()
            return self.sequence(depth + 1, "}")
        return self._argument(depth)

    def _argument(self, depth: int) -> str:
        """A group, or else the one token that TeX takes."""
        self._skip_spaces()
        token = self._next()
        if token == "{":
            return self.sequence(depth + 1, "}").strip()
        if not token or token == "}":
            self._place -= bool(token)
            return ""
        if depth > _DEEPEST:
            raise TooDeep
        return self._append("", token, depth + 1).strip()

    def _typed_argument(self, depth: int) -> str:
        """What people mean behind a typed ^ or √: a group, a number with its sign, or one letter."""
        self._skip_spaces()
        token = self._peek()
        if token == "(":
            self._next()
            return self._until_parenthesis(depth)
        if token in ("-", "+") and token:
            self._next()
            follows = self._peek()
            return token + (
                self._typed_argument(depth + 1) if follows and (follows.isalnum() or follows[0] in "\\∞") else ""
            )
        if token.isdigit():
            digits = ""
            while self._peek().isdigit() or (self._peek() == "." and self._digit_after_point()):
                digits += self._next()
            return digits
        return self._argument(depth)

    def _digit_after_point(self) -> bool:
        return self._place + 1 < len(self._tokens) and self._tokens[self._place + 1].isdigit()

    def _until_parenthesis(self, depth: int) -> str:
        """The content of `(…)`, whose opening has been taken."""
        if depth > _DEEPEST:
            raise TooDeep
        out, open_ones = "", 1
        while self._place < len(self._tokens):
            token = self._next()
            open_ones += {"(": 1, ")": -1}.get(token, 0)
            if not open_ones:
                break
            out = self._append(out, token, depth + 1)
        return out.strip()

    def _scripts(self, out: str, token: str, depth: int) -> str:
        """Index before exponent, each in parentheses; x^\\prime is x', 90^\\circ is 90°."""
        found = {token: self._typed_argument(depth)}
        other = "_" if token == "^" else "^"
        if self._peek() == other:
            self._next()
            found[other] = self._typed_argument(depth)
        raised = found.get("^", "")
        if raised in ("°", "∘"):
            found["^"], suffix = "", "°"
        elif raised and not raised.strip("'"):
            found["^"], suffix = "", raised
        else:
            suffix = ""
        scripts = (f"{mark}({found[mark]})" for mark in "_^" if found.get(mark))
        return out.rstrip() + ("".join(scripts) + suffix or token)

    def _fraction(self, out: str, depth: int) -> str:
        """`a/b`, with the parentheses that its parts and its surroundings need; behind a whole number a mixed one."""
        top, bottom = (_TIGHT.sub("", self._argument(depth)) for _ in range(2))
        before = out.rstrip()
        begins = not before or before[-1] in "([{,;=<>≤≥≠≈:∈" + CELL + ROW
        sign = ""
        if begins and top[:1] == "-" and not _LOOSE & set(_outside(top[1:])):
            sign, top = "-", top[1:].strip()
        derivative = top[:1] in ("d", "∂") and re.fullmatch(r"[d∂][^\W\d_]", bottom)
        ratio = f"{_product(top)}/{bottom if derivative else _factor(bottom)}"
        if _is_part(top, bottom) and re.search(r"(?<![\w.^)])\d+\Z", before[-30:]):
            return f"{before} {ratio}"
        joined = before[-1:] == "/" or (before == out and re.search(r"[\w)\]}'°∞!]\Z", before[-1:]))
        function = before.rpartition(" ")[2] in FUNCTIONS
        follows = self._peek()
        if joined or function or (follows and (follows.isdigit() or follows in "^_!'")):
            return f"{out}({ratio})"
        return out + sign + ratio

    def _plain_root(self, depth: int, index: str = "") -> str:
        if self._peek() == "[":  # "sqrt[3]{2}" with its backslash lost
            return self._root(depth)
        return _root_text(self._typed_argument(depth), index)

    def _root(self, depth: int) -> str:
        index = ""
        self._skip_spaces()
        if self._peek() == "[":
            self._next()
            index = self.sequence(depth + 1, "]").strip()
        return _root_text(self._argument(depth), index)

    def _binomial(self, depth: int) -> str:
        return f"binom({self._argument(depth)},{self._argument(depth)})"

    def _coloured(self, depth: int) -> str:
        self._argument(depth)
        return self._argument(depth)

    def _modulus(self, depth: int) -> str:
        return f"(mod {self._argument(depth)})"

    def _raised(self, depth: int) -> str:
        return f"^({self._argument(depth)})"

    def _lowered(self, depth: int) -> str:
        return f"_({self._argument(depth)})"

    def _environment(self, depth: int) -> str:
        """A matrix is `[[1,2],[3,4]]`, whatever its brackets; other environments keep their name."""
        name = self._argument(depth).rstrip("*")
        if name == "array" and self._peek() == "{":
            self._argument(depth)
        body = self.sequence(depth + 1, "\\end")
        self._argument(depth)
        rows = [[cell.strip() for cell in row.split(CELL)] for row in body.split(ROW)]
        rows = [row for row in rows if any(row)]
        if name in MATRICES or not name:
            matrix = "[" + ",".join(f"[{','.join(row)}]" for row in rows) + "]"
            return f"{ARRAY[0]}{matrix}{ARRAY[1]}" if name == "array" else matrix
        if name in TRANSPARENT:
            return " ".join("".join(row) for row in rows)
        return f"{name}[" + ",".join(f"[{','.join(row)}]" for row in rows) + "]"


_COMMANDS: dict[str, Callable[[_Reader, int], str]] = {
    "sqrt": _Reader._root,
    "binom": _Reader._binomial,
    "dbinom": _Reader._binomial,
    "tbinom": _Reader._binomial,
    "textcolor": _Reader._coloured,
    "pmod": _Reader._modulus,
    "textsuperscript": _Reader._raised,
    "textsubscript": _Reader._lowered,
    "begin": _Reader._environment,
}


def _escape(name: str, reader: _Reader) -> str:
    """`\\%` and the like, spaces, the end of a row; an unknown command stays what it is."""
    if name.isalpha():
        return f"\\{name} "
    if name == "!":  # no space at all
        reader._skip_spaces()
        return ""
    if name == "\\":
        return ROW
    return {"(": "", ")": "", "[": "", "]": "", "|": "‖"}.get(name, " " if name in ",;:> \n" else name)


def _is_part(top: str, bottom: str) -> bool:
    """Of a whole: the fraction of a mixed number."""
    return top.isdigit() and bottom.isdigit() and len(bottom) < 9 and int(top[:9]) < int(bottom)


def _greek(name: str) -> str:
    base = name if name.lower() == "upsilon" else name.removeprefix("var").removeprefix("up")
    if base.lower() not in GREEK or (base[1:] != base[1:].lower()):
        return ""
    letter = chr(0x3B1 + GREEK.index(base.lower()) + (GREEK.index(base.lower()) > 16))  # there are two small sigmas
    return letter.upper() if base[0].isupper() else letter


def _outside(text: str) -> str:
    """The characters of `text` that are in no bracket."""
    out, depth = [], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth <= 0 and char not in ")]}":
            out.append(char)
    return "".join(out)


def _product(text: str) -> str:
    return f"({text})" if not text or _LOOSE & set(_outside(text)) else text


def _factor(text: str) -> str:
    """In parentheses unless it is one number, letter, power or root, or has them already."""
    if _ATOM.fullmatch(text) or (text[:1] == "(" and text[-1:] == ")" and not _outside(text) and text.count("(") == 1):
        return text
    return f"({text})"


def _root_text(body: str, index: str) -> str:
    return f"root({index},{body})" if index and index != "2" else f"sqrt({body})"
