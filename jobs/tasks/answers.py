"""Reading a final answer and a confidence out of a response.

How answers are compared is `equivalence`'s to say; what others call is here too: `equivalent`, `normalise`, `percent`.
"""

import json
import re
import unicodedata
from typing import Any

from jobs.tasks.characters import half_width, visible
from jobs.tasks.confidence import LARGEST_CONFIDENCE, percent
from jobs.tasks.equivalence import LONGEST_ANSWER, equivalent
from jobs.tasks.notation import normalise
from jobs.tasks.numbers import NUMBERS_NAME, introduced_number, quantity
from orchestrator.asking.thoughts import split_thought

__all__ = [
    "LARGEST_CONFIDENCE",
    "LONGEST_ANSWER",
    "behind_hashes",
    "boxed",
    "equivalent",
    "normalise",
    "percent",
    "read_answer",
    "without_thinking",
]

_ANSWER = (
    r"(?:(?:the|my|your)[ \t]+)?(?:(?:exact|final|correct|short)[ \t]+){0,2}answer|ans"
    r"|(?:最終的?な?|正しい)?(?:回答|解答|答え|答)|正解|正答|答案|最终答案|(?:최종[ \t]*)?(?:정답|답변?)"
)
_CONFIDENCE = r"confidence(?:[ \t]+(?:score|level|rating|estimate))?|自信度?|(?:確信|信頼)(?:度|レベル)?"
_OTHER = r"explanation|rationale|reasoning|説明|理由"
_ASIDE = r"(?:[ \t]*[*_]*[ \t]*[(（][^()（）\n]{1,40}[)）])?(?:[ \t]+is(?=[ \t]*[*_]*[:：]))?"  # "Answer (final):"
_COLON = r"[ \t*_`]*[:：][ \t]*(?:\*{1,2}(?=[ \t])|\*\*|__)?[ \t]*"
_ASSIGNS = r"(?:[ \t]+(?:[-–—]|->|=>)[ \t]+|[ \t]*(?:→|=(?!>))[ \t]*)"
_START = r"^[ \t>*_`#・-]*"
_LABEL_LINE = re.compile(
    rf"{_START}(?:(?:{_ANSWER}){_ASIDE}(?:{_COLON}|[*_]*{_ASSIGNS})"
    rf"|[「『《〈](?:{_ANSWER})[」』》〉][*_]*[:：][ \t]*|[【\[](?:{_ANSWER})[】\]][*_]*[:：]?[ \t]*"
    rf"|(?:{_ANSWER}){_ASIDE}[ \t*_`#]*(?=\n))(.*)$",  # a heading
    re.IGNORECASE | re.MULTILINE,
)
_LABEL_INLINE = re.compile(
    rf"(?<![^\W_])(?<!wrong )(?<!incorrect )(?<!\bno )(?:{_ANSWER}){_ASIDE}{_COLON}(.*)$", re.IGNORECASE | re.MULTILINE
)
_NEXT_LABEL = re.compile(
    rf"{_START}[【\[]?(?:{_ANSWER}|{_CONFIDENCE}|{_OTHER}){_ASIDE}[】\]]?(?:{_COLON}|[ \t*_`#]*$)",
    re.IGNORECASE | re.MULTILINE,
)
_CONFIDENCE_LABEL = (
    rf"(?<![^\W_])(?:{_CONFIDENCE})(?:は約?)?{_ASIDE}"
    rf"(?:[】\]\"']?{_COLON}|[】\]]|(?<=[は約])(?=\d)"
    r"|[*_]*(?:[ \t]+[-–—][ \t]+|[ \t]*=[ \t]*|[ \t]+is[ \t]+(?=\d))|[ \t*_`#]*\n)"
)
_CONFIDENCE_INLINE = re.compile(rf"(?<![*_`【\[(])[*_`【\[(]*{_CONFIDENCE_LABEL}", re.IGNORECASE)
_CONFIDENCE_VALUE = re.compile(rf"{_CONFIDENCE_LABEL}\s*([^\n]*)", re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#)(?:[ \t]*+\n)?([^#\n]*\d[^#\n]*)")  # also within a line: **#### 72**
_HASHES_VALUE = re.compile(
    r"(?:[^\w\n]|_|\\\w+\{|[a-z]{1,3}\$|(?:[a-z]{3}|Rs\.?)[ \t]?(?=\d)){0,12}\d", re.IGNORECASE
)  # a heading has no number there
_NAMED_VALUE = re.compile(rf"\W*(?:[^\W\d_] ?=|{NUMBERS_NAME})\W*\d", re.IGNORECASE)
_TAG = re.compile(r"<(/?)(?:(?:final_?)?answer|ans)>", re.IGNORECASE)
_OPEN_TAG = re.compile(r"^[ \t]*<(?:(?:final_?)?answer|ans)>\s*+([^\n<>]++)\Z", re.IGNORECASE | re.MULTILINE)
_KEY = re.compile(
    r'"(?:(?:exact|final|correct|extracted)[ _]?)*(?:answer|回答|解答|答え)"\s*:\s*(?=["\[\d-]|true|false)',
    re.IGNORECASE,
)
_PYTHON_KEY = re.compile(
    r"'(?:(?:exact|final|correct|extracted)[ _]?)*answer'\s*:\s*(?:'([^'\\\n]+)'|\"([^\"\\\n]+)\"|([-\d.]+))\s*[,}]",
    re.IGNORECASE,
)
_SENTENCE = re.compile(
    r"(?:(?:\b(?:the|my)[ \t]+)?\b(?:(?:exact|final|correct)[ \t]+){0,2}answer[ \t]+(?:is|=|equals)(?:[ \t]+|:[ \t]*)"
    r"|(?:答え|回答|解答|正解|正答)は[、,]?[ \t]*)([^\n]+)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?:です|である|だ|になります|となります)?(?:。|\Z)|[.!?](?=\s|\Z)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:(?P<open>\{)|(?<=\s)(?P<bare>[^\s{}\\$])|(?P<digit>\d))")
_END_OF_TURN = re.compile(
    r"(?:<[|｜][\w▁]{1,40}[|｜]>|</?(?:s|eos|bos|pad|end_of_turn|start_of_turn|end_of_utterance|turn\|)>|\[/?INST\]|\[EOS\])\s*",
    re.IGNORECASE,
)


def without_thinking(text: str) -> str:
    """What follows a model's thoughts; "" when they never end."""
    return split_thought(text)[1] or ""


def read_answer(response: str) -> tuple[str | None, int | None]:
    """The stated final answer and confidence (percent); None for what is not stated.

    The last label `Answer:` decides (also `Exact Answer:`, `Final Answer:`, 回答, 答え, 正解; bold or not, as a
    heading, as the tag <answer>), at the start of a line if there is such a one; without any label the key "answer" of
    a JSON object, else the last \\boxed{…}, else the number behind GSM8K's last `####` (72 in `#### 72 apples`), else
    the last sentence `The answer is …`.
    """
    text = _said(response)
    confidences = _CONFIDENCE_VALUE.findall(unicodedata.normalize("NFKC", text))
    return _final_answer(text), next((p for p in map(percent, reversed(confidences)) if p is not None), None)


def behind_hashes(response: str) -> str | None:
    """What stands behind GSM8K's last `####`, as it is written there; None where that is not what decides."""
    text = _said(response)
    return None if any(read(text) is not None for read in _BEFORE_HASHES) else _behind_hashes(text)


def _said(response: str) -> str:
    return half_width(visible(_turn(without_thinking(response))))


def _turn(text: str) -> str:
    """Without the tokens that end a turn, and without what a model writes after them."""
    for token in _END_OF_TURN.finditer(text):
        follows = _END_OF_TURN.match(text, token.end())
        if (follows or token.end() == len(text)) and text[: token.start()].rstrip()[-1:] not in ("", ":", "：", "`"):
            return text[: token.start()]
    return text


def _final_answer(text: str) -> str | None:
    for read in (*_BEFORE_HASHES, _after_hashes, _in_a_sentence):
        found = read(text)
        if found is not None:
            return found or None
    return None


def _labelled(text: str) -> str | None:
    """Behind the last label at the start of a line, or in the last tag; "" where nothing stands there."""
    label = _last(_LABEL_LINE, text)
    tag = _last_tag(text)
    if opened := _OPEN_TAG.search(text):  # the closing one was what the server stopped at
        tag = opened.span(1)
    if tag and (not label or tag[1] > label.start()):
        return _stated(text[slice(*tag)].strip())
    return _stated(_after_label(text, label)) if label else None


def _last_tag(text: str) -> tuple[int, int] | None:
    """Where the content of the last <answer>…</answer> begins and ends."""
    opened: int | None = None
    found: tuple[int, int] | None = None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            found, opened = (opened, tag.start()), None
    return found


def _inline(text: str) -> str | None:
    label = _last(_LABEL_INLINE, text)
    return _stated(_after_label(text, label)) if label else None


def _stated(text: str) -> str:
    """The answer in what a label introduces: a box in it, GSM8K's mark, or what its sentence "The answer is …" says."""
    if found := boxed(text) or (text.startswith("####") and _after_hashes(text)):
        return found
    sentence = _SENTENCE.match(text)
    return _sentence_body(sentence[1]) if sentence else text


def _in_json(text: str) -> str | None:
    key = _last(_KEY, text)
    if not key:
        python = _last(_PYTHON_KEY, text)
        return next(filter(None, python.groups())).strip() if python else None
    try:
        value: Any = json.JSONDecoder(strict=False, parse_int=str, parse_float=str).raw_decode(text, key.end())[0]
    except (ValueError, RecursionError):
        return None
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _in_a_sentence(text: str) -> str | None:
    sentence = _last(_SENTENCE, text)
    return _sentence_body(sentence[1]) if sentence else None


def _sentence_body(text: str) -> str:
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip()


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _after_hashes(text: str) -> str | None:
    """By GSM8K's format a number stands there: words and signs around it are not part of the answer."""
    stated = _behind_hashes(text)
    if stated is None:
        return None
    alone = quantity(normalise(stated))
    return stated if alone and not alone.unit else introduced_number(stated) or stated


def _behind_hashes(text: str) -> str | None:
    found = None
    for mark in _HASHES.finditer(text):
        line = mark[1].strip()
        last = not text[mark.end() :].strip(" \n*_`")  # else "#### Case x = 2" is a heading
        if _HASHES_VALUE.match(line) or (last and _NAMED_VALUE.match(line)):
            found = line
    return found and (boxed(found) or found)


def _after_label(text: str, label: re.Match[str]) -> str:
    """The rest of the label's line, with the lines that its brackets span, or, where that is empty, the paragraph
    below it, up to the next label."""
    line, *confidence = _CONFIDENCE_INLINE.split(label[1] or "", maxsplit=1)
    line = line.rstrip(" \t|,;(") if confidence else line.strip()
    if text[: label.start()].endswith(("(", "（")) and line.endswith((")", "）")):  # (Answer: 42)
        line = line[:-1]
    if line.strip("*_` \t"):
        return _without_bold_end(_whole_brackets(line, text[label.end() : label.end() + LONGEST_ANSWER]))
    below = text[label.end() : label.end() + LONGEST_ANSWER].lstrip()
    below = _NEXT_LABEL.split(below, maxsplit=1)[0]
    paragraph = re.split(r"\n[ \t]*\n", below, maxsplit=1)[0].strip()
    if fence := re.fullmatch(r"```\w*\n(.*?)\n?```", paragraph, re.DOTALL):
        return fence[1].strip()
    return _without_bold_end(paragraph)


_BRACKETS = (("\\begin{", "\\end{"), ("\\[", "\\]"), ("\\(", "\\)"), ("{", "}"), ("([", ")]"))


def _whole_brackets(line: str, below: str) -> str:
    """`line`, and of the lines below it those up to where all brackets of it are closed, if they are."""
    if _closed(line):
        return line
    below = _NEXT_LABEL.split(below, maxsplit=1)[0]
    longer = line
    for more in below.split("\n")[1:40]:
        longer += "\n" + more
        if _closed(longer):
            return longer.strip()
    return line


def _closed(text: str) -> bool:
    if text.count("$$") % 2:
        return False
    for left, right in _BRACKETS:
        pair = (left, right) if left != "([" else None
        opened = text.count(left) if pair else text.count("(") + text.count("[")
        closed = text.count(right) if pair else text.count(")") + text.count("]")
        if opened > closed:
            return False
    return True


def _without_bold_end(text: str) -> str:
    """`**Answer: 42**` leaves two stars behind the 42."""
    for mark in ("**", "__"):
        if text.endswith(mark) and text.count(mark) == 1:
            return text.removesuffix(mark).strip()
    return text


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{…} or \\fbox{…}, braces balanced."""
    box = _last(_BOX, text) if "box" in text else None
    if not box:
        return None
    if not box["open"]:
        return box["bare"] or box["digit"]
    depth = 1
    for place in range(box.end(), min(len(text), box.end() + LONGEST_ANSWER)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[box.end() : place].strip() or None
    return None


_BEFORE_HASHES = (_labelled, _in_json, _inline, boxed)
