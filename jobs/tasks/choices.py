"""Which option of a multiple choice a text names: a letter, or a digit or kana where the reference is one.

Several options are never one: a text that speaks of a second option names none.
"""

import re
from dataclasses import dataclass

from jobs.tasks.notation import written

_LEFT, _RIGHT = r"[(\[{<「『【《〈〔]", r"[)\]}>」』】》〉〕]"
_CJK = "\u3040-\u30ff\u3400-\u9fff"

_ENGLISH_WORDS = re.findall(
    r"[\w']+",
    """i i'd i'll we'd we'll think believe guess choose pick select say would go with it it's its that is are must
    should be the my our so thus therefore hence correct right best final exact most likely probably answer
    answers option options choice choices letter letters response both of these""",
)
_LEAD = re.compile(
    rf"(?:(?:{'|'.join(sorted(_ENGLISH_WORDS, key=len, reverse=True))})(?![\w'])[ :,=]*)+|"
    r"(?:(?:よって|したがって|従って|最終的な|正しい|最も適切な|適切な|最適な|私の|の)*"
    r"(?:選択肢|正解|正答|回答|解答|答え|答|記号|番号)(?:の?番号)?(?:は|が|:|,)* ?)+",
    re.IGNORECASE,
)
_AGREES = re.compile(
    r"(?:(?:is|seems|must be|would be|should be)(?: (?:the|my|most|likely|probably|clearly|definitely))*"
    r"(?: (?:correct|right|best|final|true|proper|answer|choice|option|one|statement))+"
    r"|(?:番|の?選択肢)?(?:です|(?:だ|である)(?!と)|でしょう|にな(?:る|ります)|とな(?:る|ります)|(?:だ|である)?と(?:思い|考え)ます|を選(?:び|択し)ます"
    r"|が(?:最も)?(?:正解|正しい|適切|答え)(?:です|だ|である)?)|番|の?選択肢)"
    r"(?= ?(?:[.,;:!。]|because\b|since\b|as\b|\Z))",
    re.IGNORECASE,
)
_DISAGREES = re.compile(
    r"(?:is|are|was|were|isn't|aren't|cannot|can't|does|doesn't|would|could|may|might|seems|has|fails|not|or|and|nor|to|"
    r"through|vs|versus|but|plus)(?![\w])|[&/|+]|と|や|か|また|または|および|及び|では|じゃ|以外|は|が|も|でも",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r" ?[.):,;。]\)?|\)| [-=→](?= )| (?=[(\[{<「『【])|(?=[(\[{<「『【])|" + rf" (?=[{_CJK}])")
_SPOKEN_OF = re.compile(
    r"(?<![\w'.-])(?:[A-Z][.:]|[A-Za-z]\))(?![^\W_])"  # another `C.` or `c)`
    r"|(?:\b(?i:is|are|be|answer|options?|choices?|choose|pick|select|letter|or|and|to|not|but|"
    r"than|vs|versus|maybe|perhaps|possibly|instead|rather|alternatively|also)\b|"
    r"[,;/&|+→=]|[はがと、])[ ]?(?<![\w'])[A-Z](?![\w'])"
    r"|(?<![\w'.-])[A-Z] (?:is|are|was|would|has|seems|looks|and|or)\b"
)
_OPTION = re.compile(r"(?:\b(?i:option|choice|answer|letter)[ :]*|選択肢|記号)[(（]?[A-Z](?![\w'])")
_NEW_LINE = re.compile(r"(?<=[\w)\].])[ \t]*\n\s*(?=[\w(])")
_ALL = re.compile(r"\s*(?:[,;/&+]|\band\b|と|および|及び|\s)\s*")
_LETTERS, _DIGITS, _KANA = "[A-Za-z]", r"\d{1,2}", "[ァ-ヶぁ-ゖ]"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of labels; what may not follow one that has no brackets."""

    label: str
    ends: str

    @property
    def head(self) -> re.Pattern[str]:
        return re.compile(rf"{_LEFT} ?(?P<bracketed>{self.label}) ?{_RIGHT}|(?P<bare>{self.label}){self.ends}")


_KINDS = (
    _Kind(_LETTERS, r"(?![A-Za-z0-9_'])"),
    _Kind(_DIGITS, r"(?![\d%°$^_A-Za-z]|[.,:]\d)"),
    _Kind(_KANA, rf"(?:(?![{_CJK}])|(?=です|だ|が|を|と(?:思|考)|番))"),
)
_HEADS = {kind.label: kind.head for kind in _KINDS}


def labels(gold: str) -> frozenset[str] | None:
    """The label or labels that a reference is, in lower case; None for a reference that is a text."""
    text = _bare(gold)
    return next(filter(None, (_named(text, kind.label) for kind in _KINDS)), None)


def chosen(answer: str, *, like: frozenset[str]) -> frozenset[str] | None:
    """The label or labels that an answer names, of the kind of the reference's; None for none or for doubt."""
    example = next(iter(like))
    return _named(_bare(answer), next(kind.label for kind in _KINDS if re.fullmatch(kind.label, example)))


def _bare(text: str) -> str:
    text = _NEW_LINE.sub("; ", text)  # what is below the label is not part of its line
    return written(text).replace("*", "").replace("`", "").strip()


def _named(text: str, label: str) -> frozenset[str] | None:
    lead = _LEAD.match(text)
    for candidate in (text, text[lead.end() :].strip() if lead else ""):
        if one := _one(candidate, label):
            return frozenset([one])
        if several := _several(candidate, label):
            return several
    return None


def _one(text: str, label: str) -> str | None:
    head = _HEADS[label].match(text)
    if not head:
        return None
    name = (head["bracketed"] or head["bare"]).lower().lstrip("0") or "0"
    rest = text[head.end() :]
    if agrees := _AGREES.match(rest.lstrip()):
        return None if _speaks_of_another(rest.lstrip()[agrees.end() :], label) else name
    separator = _SEPARATOR.match(rest)
    if not rest.strip(" .,;:!)。"):
        return name
    if not separator and not (head["bracketed"] and rest[0] == " "):
        return None
    between = separator[0].strip() if separator else ""
    after = rest[separator.end() if separator else 0 :].strip(" .,;:")
    return None if _is_another(after, between, label) or _speaks_of_another(after, label) else name


def _is_another(after: str, separator: str, label: str) -> bool:
    """Whether what follows the first label begins with a second one, with a denial or with a conjunction."""
    if _DISAGREES.match(after.lstrip("([{ ")):
        return True
    second = re.match(rf"(?:{_LEFT} ?{label} ?{_RIGHT}|{label})(?P<rest>.*)", after, re.DOTALL)
    if not second or (second["rest"][:1].isalnum() and second["rest"][:1].isascii()) or second["rest"][:1] == "'":
        return False
    if label == _LETTERS and after[0].islower() and separator in (".", ")", ":", ".)"):
        return False  # "D) x", a variable
    if label == _DIGITS and separator in (".", ")", ":", ""):
        return after[0] in "([{<"
    text_begins = re.match(rf" (?!(?:is|are|and|or)\b)\w|[\^_+*/=-]|[{_CJK}]", second["rest"])  # "A dog", "x^2"
    return not (text_begins and separator in (".", ")", ":", ".)", ""))


def _speaks_of_another(text: str, label: str) -> bool:
    bracketed = re.search(rf"(?<![^\W_]){_LEFT} ?{label} ?{_RIGHT}", text)
    return bool(bracketed or _OPTION.search(text) or _SPOKEN_OF.search(re.sub(r"\([^()]*\)", " ", text)))


def _several(text: str, label: str) -> frozenset[str] | None:
    """`A, C`, `(A) and (C)`, `AとC`, `AC`: labels and nothing else."""
    text = re.sub(r"(?:です|だ|である)?[.。]?\Z", "", text)
    if label == _LETTERS and re.fullmatch("[A-Z]{2,6}", text):
        return frozenset(text.lower()) if list(text) == sorted(set(text)) else None
    parts = [part.strip("()[]{}<>. ") for part in _ALL.split(text.replace(")(", "),(")) if part]
    if len(parts) < 2 or len(parts) > 26 or not all(re.fullmatch(label, part) for part in parts):
        return None
    return frozenset(part.lower() for part in parts)
