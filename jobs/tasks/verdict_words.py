"""The words of a verdict, in English and Japanese: what says yes, what says no, what only quotes or only asks."""

import re
import unicodedata
from typing import Any, Literal

YesNo = Literal["yes", "no"]

LABEL = r"(?:is[_ ]?correct|is (?:it|(?:the )?(?:answer|response)) correct|correctness|correct"
LABEL += r"|(?:(?:final|overall)[_ ])?(?:verdict|judge?ment)|(?:正誤|正否)(?:判定)?|(?:最終)?判定(?:結果)?)"

_YES = r"yes|yep|yeah|true|correct|right|はい|正解|正答|正しい|正確|正|一致|合っている|合っています|○|◯"
_NO = r"no|nope|false|incorrect|wrong|not (?:correct|right|equivalent)|いいえ|不正解|不正確|正確ではない|誤答|誤り|誤"
_NO += r"|間違い|間違っている|間違っています|正しくない|正しくありません|不一致|一致しない|一致しません|×|✕"
_LATIN_END = r"(?![a-z0-9_])"
_VERDICT = re.compile(
    rf"(?:(?P<yes>(?:{_YES}|y))|(?P<no>(?:{_NO}|n)))(?:です|でした|である|だ|する|します)?(?=\W|$)(?P<rest>.*)",
    re.DOTALL,
)
_DRESS = " \t\r\n\"'`*_.,;!。、！|[](){}<>“”‘’「」『』✅❌✓✔✗✘\ufe0f"
# An aside after the word: "yes, they match", "no - off by one", "yes (5 = 5)", "yes because …".
_ASIDE = re.compile(r"[\"'*_`)\]]*\s*[-–—,.;:!(。、!\n]|\s+(?:because|since|as)\b|\s+#|(?<=yes)\s+(?=[a-z])")
TAKES_YES_BACK = re.compile(
    r"\b(?:no|not|never|hardly|incorrect|wrong|false|otherwise|if|unless|or|but|however|though|except|partial\w*)\b"
    r"|n't\b|n’t\b|いいえ|不正|誤|間違|ない|ません|だが|ただし|しかし"
)
_TAKES_NO_BACK = re.compile(r"\byes\b|\botherwise\b|はい|正解(?!と)")


def yes_or_no(value: Any) -> YesNo | None:
    """The verdict that a value is; None for all else, 1 and "not yes" included."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return None
    word = unicodedata.normalize("NFKC", value[:2000]).casefold().strip(_DRESS) or _mark(value)
    found = _VERDICT.fullmatch(word)
    if not found:
        return None
    rest, says = _NEVER_MIND.sub("", found["rest"]), "yes" if found["yes"] else "no"
    if rest.strip(_DRESS) and (
        not _ASIDE.match(word, found.start("rest"))
        or (TAKES_YES_BACK if says == "yes" else _TAKES_NO_BACK).search(rest)
    ):
        return None
    return "yes" if says == "yes" else "no"


def _mark(value: str) -> str:
    """The word for a value that is a tick or a cross without a word; "" for any other."""
    signs = value[:2000].strip(" \t\r\n\"'`*_.\ufe0f")
    return "yes" if signs in tuple("✅✓✔") else "no" if signs in tuple("❌✗✘") else ""


_EITHER = r"[\"'”’*\s]{0,3}(?:/|\||,|\bor\b|または|もしくは|か)[\"'“‘*\s]{0,3}"
_TEMPLATE = re.compile(
    r"\W*(?:(?:string|boolean|bool|str|either|enum|one of)\b.*"
    rf"|(?:{_YES}){_EITHER}(?:{_NO})\W*|(?:{_NO}){_EITHER}(?:{_YES})\W*"
    r"|['\"‘“]?yes['\"’”]?,? (?:when|if)\b.*|<[\w |/,'\"-]{0,60}>|\.\.\.|…)",
    re.DOTALL,
)


def is_template(value: Any) -> bool:
    """Whether a value only says what may stand there: "yes/no", "yes or no", <yes or no>, a JSON schema."""
    if isinstance(value, dict):
        return bool(value.keys() & {"type", "enum", "description"})
    if isinstance(value, list):
        return len(value) > 1 and {yes_or_no(entry) for entry in value} == {"yes", "no"}
    text = value[:2000].strip().casefold() if isinstance(value, str) else ""
    return _TEMPLATE.fullmatch(text.strip("\"'`“”")) is not None or _TEMPLATE.fullmatch(text) is not None


_CHOICE = r"['\"’”]?\s*(?:/|\||or\b|when\b|if\b)"  # what the prompt, echoed, says of the label
_VALUE = rf"(?:(?P<no>(?:{_NO}|n){_LATIN_END})|(?P<yes>(?:{_YES}|y){_LATIN_END}(?!{_CHOICE})))"
_MENTION = re.compile(
    rf"(?:(?<![A-Za-z])|(?<=\\n)){LABEL}[\\\"'`”’*_\]】?]*+"
    r"(?:\s*(?:[:：=|>]|->|=>|→|⇒)|\s+(?:is|was|must be|should be)\s|(?<=\?)\s)"
    rf"[\\\"'`“‘*_\[({{<\s]*+(?!{LABEL}[\"'`*_]*+\s*[:：=]){_VALUE}"  # <correct>yes</correct> \n correct: no
    r"|^[^\w\n]{0,20}(?:(?P<yes_alone>yes|正解|はい)|(?P<no_alone>no|incorrect|wrong|不正解|いいえ))"
    r"[^\w\n]{0,20}(?:$|(?<=[.,!。、])\s)"
    r"|^(?!.*(?:extracted|\|[ \t*_`]*yes\b)).*?\|[ \t*_`]*(?P<no_cell>no)[ \t*_`]*(?=\||$)",  # of a broken table
    re.IGNORECASE | re.MULTILINE,
)


def mentions(text: str) -> list[YesNo]:
    """All verdicts that some words of a reply may state, in whatever form and place."""
    found = _MENTION.finditer(unicodedata.normalize("NFKC", text))
    return ["yes" if match["yes"] or match["yes_alone"] else "no" for match in found]


_NEVER_MIND = re.compile(
    r"\b(?:no|not|without|nothing|n't|n’t)(?: \w+)? "
    r"(?:mismatch|wrong|incorrect|differen\w+|discrepan\w+|inconsisten\w+|errors?)"
    r"|\b(?:not|n't|n’t) differ\b",
)
_LIKE = r"(?:match(?:es|ing)?|agree(?:s|ing)?|equal|correspond|coincide|equivalent|identical|right|correct"
_LIKE += r"|consistent|accept\w*)"
_POLARITY = re.compile(
    rf"(?P<no>(?:\bnot|n't|n’t|\bnever|\bcannot|\bfails? to)(?: [\w-]+){{0,3}}? {_LIKE}\b"
    r"|\bincorrect(?:ly)?\b|\bwrong(?:ly)?\b|\bmismatch\w*|\bno match\b|\bdiffers?\b|\binconsistent\b|\brejected\b"
    r"|\b(?:not|n't|n’t|no)(?: \w+){0,2} answer\b|\b(?:is|as|it|say|answer|verdict)[:]? [\"'“*`]*no\b(?! \w)"
    r"|不正解|不正確|誤り|誤って|誤答|間違|正しくな|正しくあり|一致しない|一致しませ|一致せず|異なる|異なり"
    r"|ではない|ではありません)"
    r"|(?P<yes>\b(?:is|are|was|were|so|thus|hence|both)(?: \w+ly)? "
    r"(?:correct|equivalent|equal|identical|right|the same)\b"
    r"|\b(?:matches|agrees|coincides|equals|they match|both match)\b"
    r"|正しいです|正解です|正解である|一致する|一致して|一致しま)"
)


def denies(prose: str) -> bool:
    """Whether the last of a reply's words about agreement say that there is none."""
    plain = _NEVER_MIND.sub("", re.sub(r"\s+", " ", prose.casefold()))
    return [match["no"] for match in _POLARITY.finditer(plain)][-1:] not in ([], [None])


_SAYS = re.compile(
    r"(?:\b(?:says?|said|saying|contains?|containing|ends?|ending|includes?|writes?|wrote|states?|stated|claims?|gives?"
    r"|reads?|quotes?|quoting|returns|returned|outputs|consists?|holds?|has|is|was|just|only|merely|simply)"
    r"(?: (?:with|of|that|in|by|as follows|this|the line|the text))?|に|は|には|と)\W*$",
    re.IGNORECASE,
)
_ANSWERS = re.compile(
    r"\b(?:the|its|their|this|model's|student's) (?:\w+['’]s? )?(?:final |last )?"
    r"(?:response|answer|reply|student|model|line|text)\b"
    r"|extracted_final_answer|reasoning|\[response\]|回答|応答|解答|引用",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\b(?:verdict|judge?ment|judging|evaluat\w+|assess\w+|grad(?:e|ing)|results?|json|my|compar\w+|conclusion"
    r"|is (?:correct|right)|matches|equivalent)\b"
    r"|判定|採点|評価|結果|結論",
    re.IGNORECASE,
)


def is_announced(introduction: str) -> bool:
    """Whether the words before an object name it the judge's own verdict."""
    return _OWN.search(introduction) is not None


def is_quoted(introduction: str) -> bool:
    """Whether the words before an object or a line announce what the answer says, and not the judge's verdict."""
    if is_announced(introduction):
        return False
    if _SAYS.search(introduction):
        return True
    return introduction.rstrip("*_` ").endswith((":", "：")) and _ANSWERS.search(introduction) is not None
