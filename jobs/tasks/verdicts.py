"""Reading a judge's reply. What the judged answer contains is never read as the judge's verdict.

A reply may quote the answer, and an answer may hold `{"correct": "yes"}`. So a verdict counts only where the judge
itself puts it, and everything else in the reply must agree:

- A reply that is one valid JSON value, alone or in a fence, says what its key `correct` says. Words inside its strings
  say nothing, tags of thoughts included.
- Else a verdict is an object that stands on lines of its own and was not introduced as a quotation, or a line (item,
  row, tag) that begins with the label. Objects with comments, single quotes, bare words or unescaped quotes are read
  field by field, if their braces balance. What lies inside a broken object is never an object of its own.
- Every other mention of a verdict, wherever it stands, must be the same one. Two that differ, and one that cannot be
  read, leave the answer unjudged. An echoed template or schema ("yes" or "no") is not a mention.
- A "yes" among words needs more: the last of them about agreement must not deny it ("… is wrong").

So a quotation can at worst leave an answer unjudged. No "yes" and no "no" is ever guessed.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jobs.tasks import answers, judge_json
from jobs.tasks.task import Verdict
from jobs.tasks.verdict_words import LABEL, denies, is_announced, is_quoted, is_template, mentions, yes_or_no

YesNo = Literal["yes", "no"]
FIELDS = ("extracted_final_answer", "reasoning", "confidence", "strict")
NOT_THE_JUDGES = ("response", "answer", "question", "model_answer")  # keys whose objects are quoted
NOTHING = ("", "none", "null", "なし")  # of an extracted answer
TEXTS = ("arguments", "parameters", "input")  # keys of calls whose values may be JSON in a text
_INVISIBLE = " \t\r\n\ufeff\u200b\u200e\u200f\u2060\xad"  # marks that editors and tokenizers leave
MAX_DEPTH = 6  # of objects around a verdict: {"tool_calls": [{"function": {"arguments": …}}]}


@dataclass(frozen=True, slots=True)
class _Statement:
    """One place that speaks of a verdict: yes, no, a template with both, or odd, which is none of these."""

    says: Literal["yes", "no", "template", "odd"]
    values: Mapping[str, Any] = field(default_factory=dict)


def parse_verdict(text: str, thought: str = "") -> Verdict | None:
    """Read a judge's reply: JSON, bare or within prose or fences, with the usual slips, else lines `correct: yes`.

    `thought` is what the client took for the judge's thoughts. None where there is no verdict, one that is neither yes
    nor no, or two that differ; never raises.
    """
    text = text.strip(_INVISIBLE)
    joined = [f"{thought}</think>{text}"] if thought.lstrip().startswith(("{", "[", "```")) else []
    for reply in [*joined, text]:  # before anything is taken for a thought: a tag within a JSON string is text
        if said := _whole(reply):
            return _unless_quoted(_settle(said), "" if reply is not text else thought)
    reply, unsure = _without_thought(text)
    said, words, around = _whole(reply), "", ""
    if not said:
        said, words, around = _statements(judge_json.shield(reply))
    verdict = _settle(said)
    if verdict is None or {*mentions(unsure), *mentions(words)} - {verdict.verdict}:
        return None
    if verdict.verdict == "yes" and (denies(around) or denies(unsure)):
        return None
    return _unless_quoted(_unless_quoted(verdict, thought), unsure)


def _whole(reply: str) -> list[_Statement]:
    """What a reply says that is one valid JSON value."""
    return [_of_object(values) for values in _objects(judge_json.whole(judge_json.shield(reply)))]


def _unless_quoted(verdict: Verdict | None, thought: str) -> Verdict | None:
    """No "yes" if the thought before it ends in a no, in words that announce a quotation, or within an object.

    Then the tag between them is one that the judge quoted, with the "yes" behind it.
    """
    if verdict is None or verdict.verdict == "no" or not thought.strip():
        return verdict
    shielded = judge_json.shield(thought)
    if any(_is_odd(shielded, piece) for piece in judge_json.pieces(shielded)):
        return None
    if mentions(thought)[-1:] == ["no"] or is_quoted(_introduction(thought, len(thought))):
        return None
    return verdict


def _is_odd(text: str, piece: judge_json.Piece) -> bool:
    """Whether an object is a judge's and says neither yes nor no."""
    return any(one.says == "odd" for one in _of_piece(text, piece))


def _of_piece(text: str, piece: judge_json.Piece) -> list[_Statement]:
    if piece.values is not None:
        return [_of_object(values) for values in _objects(piece.values)]
    return [broken] if (broken := _of_broken(text, piece)) else []


# How a reply that opens with a thought begins, in the spellings that models have.
_OPENS = re.compile(r"\s*(?:<\|?[a-z_:]*(?:think|thought|reason|channel)|\[think|◁think|analysis(?!\s*[:：]))", re.I)
_CLOSER = re.compile(r"</[a-z_:]*(?:think|thought|reason)[a-z]*\s*>|\[/think\]|◁/think▷|<\|end_of_thought\|>", re.I)


def _without_thought(text: str) -> tuple[str, str]:
    """The reply, and what was cut off although it may belong to it.

    A thought that was opened is the judge's to think. Up to a closing tag without an opening one, and from the first
    closing tag to the last, it may be either: such a tag can stand in the answer that the judge quotes.
    """
    opened = _OPENS.match(text)
    if not opened and _only_within_objects(text):
        return text, ""
    first = _CLOSER.search(text) if opened else None
    if first and judge_json.whole(judge_json.shield(text[first.end() :])) is not None:
        return text[first.end() :], ""
    reply = answers.without_thinking(text)
    cut = text[: len(text) - len(reply)] if text.endswith(reply) else text
    return reply, cut[first.end() :] if first else "" if opened else cut


def _only_within_objects(text: str) -> bool:
    """Whether all that looks like a thought's tag lies inside the strings of valid objects."""
    shielded = judge_json.shield(text)
    rest = _masked(shielded, [piece for piece in judge_json.pieces(shielded) if piece.values is not None])
    return answers.without_thinking(rest) == rest


def _settle(statements: list[_Statement]) -> Verdict | None:
    """The verdict on which all agree that are not templates; with the other fields of the one that has most."""
    definite = [statement for statement in statements if statement.says != "template"]
    if not definite or len({statement.says for statement in definite}) > 1 or definite[0].says == "odd":
        return None
    values = max(reversed(definite), key=lambda statement: len(statement.values)).values
    extracted, reasoning = _plain(values.get("extracted_final_answer")), values.get("reasoning")
    says: YesNo = "yes" if definite[0].says == "yes" else "no"
    return Verdict(
        says,
        None if extracted.strip(" \t\n'\"*_`.").lower() in NOTHING else extracted,
        _plain(reasoning) if isinstance(reasoning, str) else "",
        answers.percent(_only(values.get("confidence"))),
    )


def _only(value: Any) -> Any:
    """The one entry of a list or object that holds one: [80], {"value": 80}; of more the one that is called value."""
    for _ in range(MAX_DEPTH):
        if isinstance(value, dict) and (len(value) == 1 or "value" in value):
            value = value.get("value", next(iter(value.values())))
        elif isinstance(value, list) and len(value) == 1:
            value = value[0]
    return value


def _plain(value: Any) -> str:
    """A field as text that every log can hold: no halves of surrogate pairs."""
    value = _only(value)
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = "" if value is None else judge_json.unshield(str(value))
    return text.encode(errors="replace").decode()


def _objects(value: Any, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The objects that speak of a verdict in a value: itself, an entry, what a wrapper or a text within text holds."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, str):
        yield from _objects(judge_json.whole(judge_json.shield(judge_json.unshield(value))), depth + 1)
    elif isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict | list):
                yield from _objects(entry, depth + 1)
    elif isinstance(value, dict):
        if value.keys() & set(FIELDS) or any(_is_label(name) and not _is_wrapper(value[name]) for name in value):
            yield value
            return
        for name, inner in value.items():
            if (isinstance(inner, dict | list) and name not in NOT_THE_JUDGES) or name in TEXTS:
                yield from _objects(inner, depth + 1)


def _is_label(name: str) -> bool:
    return re.fullmatch(LABEL, name.strip(" ?:*_`").lower()) is not None


def _is_wrapper(inner: Any) -> bool:
    """What `verdict` holds in {"verdict": {"correct": "yes", …}}."""
    return isinstance(inner, dict) and any(_is_label(name) or name in FIELDS for name in inner) and len(inner) > 1


def _of_object(values: Mapping[str, Any]) -> _Statement:
    """What an object's labels say, if they agree; odd where a verdict's other fields stand without one."""
    said = {_says(value) for name, value in values.items() if _is_label(name)}
    if values.keys() & set(TEXTS):  # a call that a quotation has cut in two
        said.add("odd")
    return _Statement(said.pop() if len(said) == 1 else "odd", values)


def _says(value: Any) -> Literal["yes", "no", "template", "odd"]:
    return yes_or_no(_only(value)) or ("template" if is_template(value) else "odd")


def _statements(text: str) -> tuple[list[_Statement], str, str]:
    """What a reply among words says, its words without those in strings, and what stands around all that was read."""
    found: list[_Statement] = []
    read: list[judge_json.Piece] = []
    pieces = list(judge_json.pieces(text))
    for piece in pieces:
        statements = _of_piece(text, piece)
        template = all(one.says == "template" for one in statements)
        if statements and not template and _is_quotation(text, piece):
            found.append(_Statement("odd"))  # and whatever else stands there may be a part of the answer too
        elif statements:
            found += statements
            read.append(piece)
    valid = [piece for piece in read if piece.values is not None]
    return found + list(_lines(_masked(text, pieces))), _masked(text, valid), _masked(text, read)


def _masked(text: str, spans: list[judge_json.Piece]) -> str:
    parts, place = [], 0
    for piece in spans:
        parts += [text[place : piece.start], judge_json.OBJECT]
        place = piece.end
    return "".join([*parts, text[place:]])


# What may stand on an object's line behind it: the end of a fence, of a tag or of a sentence, and another object.
_TAIL = re.compile(r"(?:[\]}\s`~.。;]|</?[\w:]+>|<\|\w+\|>)*(?:\{\s*[\"']|$)")
_HEAD = re.compile(r"(?:^|[:：=>→`~\[{}.。!！*]|\bjson)$", re.IGNORECASE)


def _is_quotation(text: str, piece: judge_json.Piece) -> bool:
    """Whether words run into an object or on behind it, or introduce it as what the answer says."""
    begin = text.rfind("\n", 0, piece.start) + 1
    end = text.find("\n", piece.end)
    head, tail = text[begin : piece.start].strip(), text[piece.end : end if end >= 0 else len(text)].strip()
    if not _TAIL.match(tail) or not (_HEAD.search(head) or is_announced(head)):
        return True
    return is_quoted(_introduction(text, begin) if not head or head.startswith("```") else head)


def _introduction(text: str, place: int) -> str:
    """The last line before `place` that is neither empty nor a fence, if it is near."""
    for _ in range(6):
        begin = text.rfind("\n", 0, max(0, place - 1)) + 1
        line = text[max(begin, place - 1000) : place].strip()
        if (line and not line.startswith("```")) or begin == 0:
            return line
        place = begin
    return ""


_PART = re.compile(
    rf"(?P<brace>[{{}}])|[\"'“”‘’`]?\b(?P<name>{LABEL}|{'|'.join(FIELDS)})[\"'“”‘’`]?[ \t]*[:：=]\s*", re.IGNORECASE
)
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*[^*]{0,1000}\*/")
_TOKEN = re.compile(r"[\"“”'‘’`]([^\"“”'‘’`]*)[\"“”'‘’`]|([^,\n#/]*)")
_NEXT_FIELD = re.compile(r"[\"'“”]?\w[\w ]{0,40}[\"'“”]?\s*[:：]")


def _of_broken(text: str, piece: judge_json.Piece) -> _Statement | None:
    """What a broken object says field by field; None for one that is not a judge's, odd where it cannot be trusted."""
    fields = list(_fields(text, piece))
    names = {name for name, _ in fields}
    quotes = re.findall(r'\\.|(")', text[piece.start : piece.end], re.DOTALL).count('"')
    if not piece.closed or (names and quotes % 2):  # a string continues after the object
        return _Statement("odd")
    if not names:
        return None
    values: dict[str, Any] = {}
    said: set[Literal["yes", "no", "template", "odd"]] = set()
    for name, raw in fields:
        if _is_label(name):
            said.add(_of_raw(raw))
        elif name in ("reasoning", "extracted_final_answer"):
            values[name] = _string(raw)
        else:
            values[name] = _token(raw)[0]
    return _Statement(said.pop() if len(said) == 1 else "odd", values)


def _fields(text: str, piece: judge_json.Piece) -> Iterator[tuple[str, str]]:
    """Name and raw value of a broken object's own fields, those of objects within it left out."""
    depth, name, start = 0, "", 0
    for part in _PART.finditer(text, piece.start, piece.end):
        if part["brace"]:
            if judge_json.is_brace(text, part.start()):
                depth += 1 if part["brace"] == "{" else -1
        elif depth == 1 and _is_key(text, part.start()):
            if name:
                yield name, text[start : part.start()]
            name, start = part["name"].lower(), part.end()
    if name:
        yield name, text[start : piece.end - 1]


def _is_key(text: str, place: int) -> bool:
    """Whether a key can stand here: after a brace, a comma, a line or, the comma forgotten, a value."""
    place -= 1
    while text[place] in " \t":
        place -= 1
    return text[place] in "{,\n\"'”’`}]%" or text[place].isdigit() or text.startswith("*/", place - 1)


def _of_raw(raw: str) -> Literal["yes", "no", "template", "odd"]:
    """The verdict in a field's text, which may be bare, and a comment or fields of other names behind it."""
    stated = _COMMENT.sub("", raw).strip(" \t\r\n,")
    token, rest = _token(raw)
    if rest and not _NEXT_FIELD.match(rest):
        token = stated  # ["yes"], or "yes" | "no"
    return _says(token)


def _token(raw: str) -> tuple[str, str]:
    """The first quoted or bare word of a field's text, and what follows it."""
    raw = raw.strip()
    found = _TOKEN.match(raw)
    assert found  # the bare word may be empty
    rest = _COMMENT.sub("", raw[found.end() :]).strip(" \t\r\n,")
    return found[1] if found[1] is not None else found[2].strip(), rest


def _string(raw: str) -> str:
    """A string's text without its quotes, its escapes undone."""
    text = raw.strip().rstrip(",").strip()
    if text[:1] in tuple("\"'“‘`") and len(text) > 1:
        text = text[1:-1] if text[-1] in "\"'“”‘’`" else text[1:]
    return re.sub(r"\\([\"'nt\\/])", lambda match: {"n": "\n", "t": "\t"}.get(match[1], match[1]), text)


_BEGINS = r"^[ \t*_#|+•・-]*+(?:\(?\d{1,2}[.)][ \t]*+)?(?:<[^\n]{0,200}>[ \t]*+)?[\"'`“*_\[【<]*+"
_ENDS = r"[\"'`”*_\]】]*+\??[\"'`”*_]*+"
_ASSIGNS = r"[ \t]*(?:[:：=|>]|->|=>|→|⇒|(?<=\?)|[–—-](?=[ \t]))"
_LABELLED = re.compile(rf"{_BEGINS}{LABEL}{_ENDS}(?:{_ASSIGNS}(.*)|[ \t]*)$", re.IGNORECASE | re.MULTILINE)
_LINE = r"^[ \t*_#|+•・-]*+(?:\(?\d{{1,2}}[.)][ \t]*+)?[\"'`*_\[<]*+{name}[\"'`*_\]]*+[ \t]*+[:：=|>][ \t*_]*+(.*)$"
_FIELD_LINES = {name: re.compile(_LINE.format(name=name), re.IGNORECASE | re.MULTILINE) for name in FIELDS[:3]}
_RULE = re.compile(r"\s*\|?[ \t:|-]*--[ \t:|-]*")


def _lines(text: str) -> Iterator[_Statement]:
    """One statement for each line with a label, or row under a table's label, and the other fields from their lines."""
    values: dict[str, Any] = {}
    for name, pattern in _FIELD_LINES.items():
        if lines := pattern.findall(text):
            values[name] = re.sub(r"</\w+>.*", "", lines[-1]).strip(' \t*_|"`,')
    for match in _LABELLED.finditer(text):
        below = _below(text, match.end())
        if _RULE.fullmatch(below) or (match[1] or below).lstrip(" \t*_`[").startswith(judge_json.OBJECT):
            continue  # the head of a table; the words before an object
        if match[1] is None and not re.search("[#*<]", match[0]):
            continue  # a word on its line, not a heading
        stated = re.sub(r"</[\w:]+>.*", "", match[1] or "").strip(" \t*_|")
        before = _introduction(text, match.start())
        if before.endswith((":", "：")) and is_quoted(before):
            yield _Statement("odd")
        else:
            yield _Statement(_says(stated or below), values)
    yield from _columns(text)


def _below(text: str, place: int) -> str:
    """The next line after `place` that is neither empty nor a fence, if it is near."""
    lines = text[place : place + 400].split("\n")[1:]
    return next((line for line in lines if line.strip() and not line.lstrip().startswith("```")), "")


def _columns(text: str) -> Iterator[_Statement]:
    """Tables with a label in their head: | reasoning | correct |"""
    names: list[str] = []
    before: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip(" \t*_`") for cell in line.strip().strip("|").split("|")] if "|" in line else []
        if cells and _RULE.fullmatch(line):
            names = [name.lower() for name in before]
        elif len(cells) == len(names) and any(map(_is_label, names)):
            row = dict(zip(names, cells, strict=True))
            yield _of_object(row)
        elif not cells:
            names = []
        before = cells
