"""Texts that differ only in notation, made one: width, white space, outer punctuation, LaTeX dress, case of words."""

import re

from jobs.tasks.characters import plain
from jobs.tasks.latex import ARRAY, CELL, ROW, TooDeep, linear

LONGEST = 4000  # characters that are read as notation; longer texts are compared as they are

_WRAPPERS = (
    ("```", "```"),
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("*", "*"),
    ("_", "_"),
    ("「", "」"),
    ("『", "』"),
    ("«", "»"),
    ("【", "】"),
)
_MATH = re.compile(r"(?<!\\)(\$\$|\$)((?:[^$\\]|\\.)*)\1", re.DOTALL)
_BOLD = re.compile(r"(?<![\w*)])\*\*([^*]+)\*\*(?![\w*(])")
_FRAMED_ARRAY = re.compile(f"[(\\[] *{ARRAY[0]}([^{ARRAY}]*){ARRAY[1]} *[)\\]]")
_STOP_BEHIND = re.compile(r"(?<=[^\W_]|[)\]}\"'`*%°∞」』】])[.,;:。]\Z")


def written(text: str) -> str:
    """The one notation, with the case and the spaces that the text has: what a reader would type on one line."""
    text = _unwrapped(plain(text))
    if not has_words(text) or len(text) > LONGEST:  # Morse code, brackets, a comma: the signs are the content
        return " ".join(text.split())
    text = re.sub(r"(?<![\w.])(\d{1,3}(?:_\d{3})+)(?![\w])", lambda found: found[1].replace("_", ""), text)
    try:
        text = linear(_BOLD.sub(r"\1", _MATH.sub(r"\2", text)))
    except TooDeep:
        return " ".join(text.split())
    text = _FRAMED_ARRAY.sub(r"\1", text).replace(ARRAY[0], "").replace(ARRAY[1], "")
    return _unwrapped(" ".join(text.replace(CELL, "&").replace(ROW, " ").split()))


def normalise(text: str) -> str:
    """One notation for texts that differ only in case, width, white space, outer punctuation or LaTeX dress."""
    text = written(text)
    return squeezed(folded(ungrouped(text))) if has_words(text) else text


def has_words(text: str) -> bool:
    """Whether there is a letter, a digit or ∞ in it."""
    return any(char.isalnum() or char == "∞" for char in text)


def _unwrapped(text: str) -> str:
    """Without the quotes, stars or back-ticks that enclose the whole of it, and without a full stop behind."""
    while True:
        inner = _STOP_BEHIND.sub("", text.strip()).strip()
        for left, right in _WRAPPERS:
            body = inner[len(left) : len(inner) - len(right)]
            if body.strip() and inner == left + body + right and left not in body and right not in body:
                inner = body
        if inner == text:
            return text
        text = inner


_COMMAS = re.compile(r"(?<![\w.,'(\[{])\d{1,3}(?:(?:,\d{3})+|(?:'\d{3})+)(?![\d']|,\d|,? ?\.\.\.)")
_BLANKS = re.compile(r"(?:(?<=^)|(?<=^[-+$€£¥])|(?<=[=≈] ))\d{1,3}(?: \d{3})+(?![\d/]| ?\d| ?,)")


def ungrouped(text: str) -> str:
    """1,234,567 and 1'234'567 without their separators, 1 234 567 where it is the whole; "1, 234" is a list."""
    text = _COMMAS.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    return _BLANKS.sub(lambda found: found[0].replace(" ", ""), text)


_GREEK = "Α-Ωα-ω"
_REWRITTEN = [
    (re.compile(pattern), with_what)
    for pattern, with_what in (
        (r"<?-+>", "→"),
        (r"=>", "⇒"),
        (r"<=", "≤"),
        (r">=", "≥"),
        (r"!=", "≠"),
        (r"\+/?-", "±"),
        (r"(?<=\d) ?[xX] ?(?=10\^)", "*"),
        (r"(?<![\w)^/])\((\d+/\d+)\)(?=\(|[^\W\d_])", r"\1"),  # (1/2)x
        (r"(?<=\d) ?(?:percent|per cent|パーセント)(?!\w)", "%"),
        (r"(?<=\d) ?degrees?(?![^\W_])", "°"),
        (r"\s*([^\w\s])\s*", r"\1"),  # "x + 1" is "x+1", but "1 2" is not "12"
        (r"(?<=\d) (?=[^\W\d_])(?![eE][+-]?\d)", ""),  # "5 km" is "5km"
        (rf" ?(?<![{_GREEK}])([{_GREEK}])(?![{_GREEK}]) ?", r"\1"),
        (r"(?<![^(\[{,;=<>≤≥≠≈∈])\+(?=[\d.∞$])", ""),  # +∞
        (r"(?<=[\d)])\*(?=[^\W\d_]|\()(?![eE][+-]?\d)", ""),  # "2*x" is "2x"
        (r"/\(([^\W_]|\d+(?:\.\d+)?)\)(?![\d.^!])", r"/\1"),
    )
]


def squeezed(text: str) -> str:
    """Without the spaces and signs that say nothing."""
    for pattern, with_what in _REWRITTEN:
        text = pattern.sub(with_what, text)
    return text


_CHUNK = re.compile(r"([(\[{\"'«]*)([^\W\d_]+(?:['/,.:;!?-][^\W\d_]+)*)([)\]}\"'»,.:;!?]*)")
_WORD = re.compile(r"[^\W\d_]+")
_PARTS = re.compile(r"[^\W\d_]+|[\W\d_]+")
_SHORT = frozenset(re.findall(r"\w+", "No Of In On At To By Is It An Or And As Be Vs For The"))


def folded(text: str) -> str:
    """Words in lower case: Yes, YES and yes, New York and new york.

    Folded are words of three letters and more that stand alone, not those mixed with digits, brackets or single
    letters: the case of variables, units, elements, genotypes and SMILES is their content (AaBb, 5 mW, CO, x).
    Capitals throughout count as content also where single letters stand beside them (triangle ABC, point P).
    """
    chunks = re.sub(r" ?([=+*^<>≤≥≠≈∈±|→]) ?", r"\1", text).split(" ")
    if text in ("No", "no"):
        return "no"
    symbols = any(len(chunk.strip(".,;:()")) == 1 and chunk.strip(".,;:()").isalpha() for chunk in chunks)
    folded_chunks = []
    for number, chunk in enumerate(chunks):
        found = _CHUNK.fullmatch(chunk)
        least = 4 if number and chunks[number - 1][-1:].isdigit() else 3  # 5 kPa and 5 Mol, but 5 Apples
        words = _WORD.findall(chunk) if found else []
        if words and chunk in _SHORT and (number or _WORD.fullmatch(chunks[1] if chunks[1:] else "", 0, 99)):
            chunk = chunk.lower()  # "Lord Of The Rings", "No solution"
        elif words and min(map(len, words)) > 1:
            chunk = "".join(_folded_word(part, least, symbols) for part in _PARTS.findall(chunk))
        folded_chunks.append(chunk)
    return " ".join(folded_chunks)


def _folded_word(word: str, least: int, symbols: bool) -> str:
    if (
        len(word) < least or not word.isalpha() or word[0].lower() == word[1].lower()
    ):  # no word begins so, but aabb and CCO do
        return word
    shouted = word.isupper() and not symbols
    return word.lower() if shouted or word[1:].islower() else word
