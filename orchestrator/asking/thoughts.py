"""Where a model's thoughts end and its answer begins, in the spellings that models and servers use.

The rules: what stands before a closing mark is a thought; a thought that never ends leaves no answer; a mark that an
answer only mentions (`R1 opens with <think> here`) is not a mark.
"""

import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

# Most models write tags; Mistral, Kimi, Cohere, Apertus, OpenThoughts, Gemma and Granite have marks of their own.
_NAME = (
    r"(?:(?:[a-z]{1,20}[:_-]|ant|deep_?|chain_of_)?(?:think(?:ing)?(?:_?process)?|thoughts?|thought_?process|reasoning"
    r"|reason|scratchpad|(?:inner|internal)_?monologue)"
    r"|reflection|analysis)"
)
_MARK = re.compile(
    rf"(?:<|＜|&lt;) ?(?P<slash>/ ?)?(?P<tag>{_NAME})(?: [^<>\n]{{0,80}})? ?(?:>|＞|&gt;)"
    r"|\[(?P<mistral>/?)THINK\]"
    r"|◁(?P<kimi>/?)think▷"
    r"|(?P<open><\|(?:begin_of_(?:thought|thinking)|start_thinking|thought|inner_prefix|thinking|think)\|>|<\|channel>thought\b)"
    r"|(?P<close><\|(?:end_of_(?:thought|thinking)|end_thinking|/thought|inner_suffix|/thinking|/think)\|>|<channel\|>)"
    r"|here(?:'s|’s| is) my (?P<granite>thought process|response):",
    re.IGNORECASE,
)
# Where a mark may begin. A pattern that starts with a sign runs at the speed of a search for that sign, and not at all
# where the text has none; _MARK at every place of a long thought would take longer than all else that reads a reply.
_WITHIN = rf"(?=[ /]{{0,3}}[a-z:_|/-]{{5}})(?=[ /]{{0,3}}(?:\||channel|{_NAME}))"  # first what is cheap to rule out
_STARTS = tuple(
    (sign, re.compile(re.escape(sign) + rest, re.IGNORECASE))
    for sign, rest in (("<", _WITHIN), ("＜", _WITHIN), ("&", "lt;" + _WITHIN), ("[", "/?THINK"), ("◁", "/?think"))
)
_GRANITE = re.compile(r":(?:(?<=my response:)|(?<=my thought process:))", re.IGNORECASE)
_HERE = re.compile(r"[hH](?i:(?=ere(?:'s|’s| is) my ))")
_SOLUTION = re.compile(r"<\|(?:(?:begin|end)_of_solution|(?:start|end)_response)\|>", re.IGNORECASE)

# gpt-oss: with its special tokens, and with what is left of them where a server has dropped those.
_CHANNEL = re.compile(r"<\|channel\|> ?([a-z]+)[^<\n]{0,200}(?:<\|constrain\|>[^<\n]{0,50})?<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_CHANNEL_FIRST = re.compile(r"\s*(?:<\|start\|> ?assistant)?<\|channel\|>")
_FINAL_CHANNEL = re.compile(r"<\|start\|> ?assistant ?<\|channel\|> ?final\b")
_ANALYSIS = re.compile(r"\s*(?:assistant)?analysis")
_FINAL = re.compile(r"(?<![ \t\"'`])assistantfinal(?![a-z])")

_LINE = 300  # characters of a line that are read around a mark
_MARKS = 200  # marks after an opening one among which its closing one is searched
_QUOTES = {'"': '"', "`": "`", "“": "”", "「": "」", "『": "』"}
_GOES_ON = re.compile(r"[ \t]+[a-z&/|+,–—-]|[.,;:!?)\]」』]|[ \t]*(?:タグ|トークン|という|を|が|で(?![はす]))")
_JSON_FIRST = re.compile(r"\s*(?:```(?:json)?\s*)?(?:\[\s*)?\{")


def split_thought(text: str) -> tuple[str | None, str | None]:
    """A model's text in two: (thought, answer), without white space around them, None where there is none.

    The opening mark may be missing: chat templates write it into the prompt. It counts at the start of the text or
    alone on its line; a closing mark without it counts unless the text only speaks of it: in quotation marks, in code,
    in JSON or in the middle of a sentence. What stands before an opening mark belongs to the answer. Where nothing is a
    thought, the text comes back as it was.
    """
    if "<|channel|>" in text and (_CHANNEL_FIRST.match(text) or _FINAL_CHANNEL.search(text)):
        return _of_channels(text)
    analysis = _ANALYSIS.match(text)
    start = analysis.end() if analysis else 0
    final = _FINAL.search(text, start) if "assistantfinal" in text else None
    if final:
        return _part(text[start : final.start()]), _part(text[final.end() :])
    if analysis and text[start : start + 1].isupper():  # "analysisWe need to", and never the end of it
        return _part(text[start:]), None
    return (None, text or None) if _JSON_FIRST.match(text) else _of_marks(text)


@dataclass(frozen=True, slots=True)
class _Mark:
    start: int
    end: int
    closes: bool
    name: str  # what an opening and its closing mark have in common
    before: str  # on its line
    after: str

    @property
    def alone(self) -> bool:
        return not self.before.strip() and not self.after.strip()


def _of_marks(text: str) -> tuple[str | None, str | None]:
    """Goes from mark to mark once: outside a thought for what begins one, inside for what ends it."""
    marks = _marks(text)
    thoughts: list[str] = []
    answers: list[str] = []
    place = number = 0
    while number < len(marks):
        mark = marks[number]
        at_start = not text[place : mark.start].strip() and not any(map(str.strip, answers))
        if mark.closes and not thoughts and _ends_what_the_prompt_began(mark, marks[:number]):
            thoughts.append(text[place : mark.start])
            place = mark.end
        elif mark.closes and thoughts and at_start:
            place = mark.end  # some models close a thought twice
        elif not mark.closes and (at_start or mark.alone):
            closing = _closing(marks, number)
            answers.append(text[place : mark.start])
            thoughts.append(text[mark.end : marks[closing].start if closing else len(text)])
            place = marks[closing].end if closing else len(text)
            number = closing or len(marks)
        number += 1
    if not thoughts:
        return None, text or None
    answers.append(text[place:])
    return _part("\n\n".join(map(str.strip, thoughts))), _part(_SOLUTION.sub("", "".join(answers)))


def _marks(text: str) -> list[_Mark]:
    """All marks of `text` but those in quotation marks and in code."""
    every = _every_mark(text)
    fences = [found.start() for found in re.finditer("```", text)] if every and "`" in text else []
    marks = []
    for found in every:
        before = text[max(found.start() - _LINE, 0) : found.start()].rpartition("\n")[2]
        after = text[found.end() : found.end() + _LINE].partition("\n")[0]
        fence = bisect(fences, found.start())
        if not _quoted(before, after) and not (fence % 2 and fence < len(fences)):
            marks.append(_mark(found, before, after))
    return marks


def _every_mark(text: str) -> list[re.Match[str]]:
    """What `_MARK.finditer` would find."""
    places = [found.start() for sign, start in _STARTS if sign in text for found in start.finditer(text)]
    if _GRANITE.search(text):
        places += [found.start() for found in _HERE.finditer(text)]
    marks: list[re.Match[str]] = []
    for place in sorted(places):
        if (not marks or place >= marks[-1].end()) and (mark := _MARK.match(text, place)):
            marks.append(mark)
    return marks


def _mark(found: re.Match[str], before: str, after: str) -> _Mark:
    kind = found.lastgroup or ""
    closes = bool(
        found["slash"]
        or found["mistral"]
        or found["kimi"]
        or found["close"]
        or (found["granite"] or "")[:1] in ("r", "R")
    )
    name = found["tag"].lower() if found["tag"] else {"open": "token", "close": "token"}.get(kind, kind)
    return _Mark(found.start(), found.end(), closes, name, before, after)


def _closing(marks: Sequence[_Mark], opening: int) -> int | None:
    """Which mark ends the thought that `opening` begins: the first of its name that is not only spoken of, the first
    of its name, or the first of any."""
    name = marks[opening].name
    any_name = None
    own = None
    for number in range(opening + 1, min(len(marks), opening + _MARKS)):
        mark = marks[number]
        if mark.closes and mark.name == name:
            if not _in_a_sentence(mark):
                return number
            own = own or number
        elif mark.closes and any_name is None:
            any_name = number
    return own or any_name


def _ends_what_the_prompt_began(mark: _Mark, earlier: Sequence[_Mark]) -> bool:
    if mark.name == "granite" or _in_a_sentence(mark):
        return False
    if mark.before.strip() and not mark.after.strip() and re.search(r"[:：][*_]*[ \t]+\Z", mark.before):
        return False  # `Answer: </think>`
    same_line = mark.start - len(mark.before)
    return not any(other.start >= same_line and not other.closes for other in earlier[-5:])  # `<think>…</think>`


def _in_a_sentence(mark: _Mark) -> bool:
    """Whether its line continues after it as a sentence does: `the </think> tag`."""
    begun = re.search(r"[^\s.!?。！？…][ \t(]+\Z|[^\x00-\x7f]\Z|\A[^\x00-\x7f]", mark.before)
    return bool(begun and _GOES_ON.match(mark.after))


def _quoted(before: str, after: str) -> bool:
    for left, right in _QUOTES.items():
        if left == right:
            opened = (before.count(left) - before.count("\\" + left)) % 2 == 1
        else:
            opened = before.rfind(left) > before.rfind(right)
        if opened and right in after:
            return True
    return False


def _of_channels(text: str) -> tuple[str | None, str | None]:
    """gpt-oss: the channel `final` is the answer, all others are thoughts."""
    thoughts = [] if _CHANNEL_FIRST.match(text) else [_until_end(text, 0)]
    finals: list[str] = []
    for mark in _CHANNEL.finditer(text):
        (finals if mark[1] == "final" else thoughts).append(_until_end(text, mark.end()))
    return _part("\n\n".join(filter(None, thoughts))), _part("\n".join(filter(None, finals)))


def _until_end(text: str, start: int) -> str:
    end = _CHANNEL_END.search(text, start)
    return text[start : end.start() if end else len(text)].strip()


def _part(text: str) -> str | None:
    return text.strip() or None
