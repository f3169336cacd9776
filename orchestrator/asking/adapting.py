"""What a server refuses of our requests, and what to ask instead: OpenAI-compatible means many things.

Read from the server's own sentence, only for what the request holds:
- A token budget under its other name, where one is refused: `max_tokens` and `max_completion_tokens`.
- A token budget above what the model may write becomes the most that the sentence names. One above what the context
  has left is dropped for this one request, since it depends on the prompt: a server then gives what is left.
- An option that is not known or not supported is dropped, as is a value that the model does not take. Better an answer
  with the server's own sampling, which its record states, than none; where that is unwanted, the sentence of a first
  record says so after one question.
- A server that only streams is asked for a stream, whose pieces `orchestrator.endpoints.bodies` joins.
- A system prompt, where the model's template knows no such role, goes before the first question.

A change is learnt once a request that it made was answered; later requests of this client have it from the start.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.endpoints.refusals import Refusal

MOST_CHANGES = 6  # changes of one request; real servers need three
# 500 and 501: sglang and others raise within the chat template. 404 and 405 speak of the address.
_STATUSES = (400, 422, 500, 501)
_OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_BUDGET = re.compile(r"max_?(new|output|completion)?_?tokens|(output|completion) tokens", re.I)
_CONTEXT = re.compile(
    r"context.{0,20}(length|window|size|exceed)"
    r"|(input|prompt)\S{0,3}( tokens?\S?| length)? ?(\+|plus|and).{0,20}(max_|output|completion|new)"
    r"|(max_\w*|output|completion|new)( tokens?)?[`'\"]? ?(\+|plus|and).{0,12}(input|prompt)",
    re.I | re.S,
)
_TOO_LARGE = re.compile(
    r"range|at most|maximum|exceed|too (large|big|high|many|long)|greater|larger|higher|less than|smaller|<|>|≤|up to"
    r"|limit|between|范围|最大|上限|以内|超过|以下|範囲",
    re.I,
)
_REFUSED = re.compile(
    r"unsupported|unavailable|unpermitted|(not|n't|no) (\w+ )?(support|accept)|unknown|unrecogni[sz]ed"
    r"|unexpected|only the default|deprecated|no longer"
    r"|not (\w+ )?(permitted|allowed|available|enabled|implemented|accepted|recogni[sz]ed|defined|a valid|compatible)"
    r"|extra (input|field|key|param)|additional propert|invalid (param|arg|field|name|key|option)|incompatible"
    r"|only (\w+ )?(supports?|accepts?|allows?)|(supports?|accepts?) only|only ['\"]?[\d.]+['\"]? (is|are)"
    r"|fixed (at|to)|must be one of|invalid (value|temperature|top_p)(?!.{0,12}max_)|(is|are|or) invalid"
    r"|cannot (find|be|both)|can't be|no such|(positive|greater than 0|> ?0|in \(0)(?![.\d]*[1-9])"
    r"|不支持|非法|无效|未知|サポートされて|対応して|未対応",
    re.I,
)
_SYSTEM = re.compile(
    r"\b(system|developer)\b['\"`]?[ -]?(role|message|prompt|instruction)|roles?\b.{0,60}['\"`](system|developer)['\"`]"
    r"|['\"`](system|developer)['\"`].{0,40}\brole|\brole\b.{0,20}\b(system|developer)\b",
    re.I | re.S,
)
_ROLES = re.compile(
    r"roles? must alternate|roles? other than .{0,12}user"
    r"|only .{0,12}user.{0,20}(assistant|model).{0,40}(role|support|allow)"
    r"|first message.{0,40}user|(should|must) be .{0,20}user.{0,20}(assistant|model)",
    re.I | re.S,
)
_STREAM_ONLY = re.compile(
    r"(only|must|require|enable|need).{0,40}\bstream|\bstream\w*.{0,20}(required|only|must)", re.I | re.S
)
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+|\n")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")

Request = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference from what was asked."""

    action: Literal["drop", "rename", "lower", "merge", "stream"]
    option: str
    to: str | int = ""
    lasting: bool = True  # it holds whatever is asked

    def __str__(self) -> str:
        match self.action:
            case "drop":
                return dropped(self.option)
            case "rename":
                return f"{self.option} renamed to {self.to}"
            case "lower":
                return f"{self.option} lowered to {self.to}"
            case "stream":
                return "asked for a stream"
        return "system prompt put before the question"

    def apply(self, request: Request) -> bool:
        """Change `request`, whose messages may be another's; False where there is nothing to change."""
        if self.action == "merge":
            return _merge_system(request)
        if self.action == "stream":
            return request.setdefault("stream", True) is True
        if self.option not in request:
            return False
        if self.action == "rename":
            request[str(self.to)] = request.pop(self.option)
        elif self.action == "drop":
            del request[self.option]
        elif not _is_above(request[self.option], int(self.to)):
            return False
        else:
            request[self.option] = self.to
        return True


def dropped(option: str) -> str:
    """How `Outcome.adapted` and records state that an option was left out."""
    return f"{option} dropped"


class Adaptation:
    """What one client has learnt about its server."""

    def __init__(self) -> None:
        self._learnt: dict[Change, None] = {}  # in the order in which it was learnt

    def apply(self, request: Request) -> list[Change]:
        """Make the learnt changes in a new request; returns those that it needed."""
        return [change for change in self._learnt if change.apply(request)]

    def learn(self, changes: Iterable[Change]) -> None:
        """A request with these changes was answered."""
        self._learnt |= {change: None for change in changes if change.lasting}


def adapt(request: Request, refusal: Refusal, made: list[Change]) -> bool:
    """Take out of `request` what was refused, adding to the changes `made`; False where nothing helps."""
    if refusal.status not in _STATUSES or len(made) >= MOST_CHANGES:
        return False
    changes = [change for change in _proposals(request, refusal, made) if change not in made and change.apply(request)]
    made += changes
    return bool(changes)


def _proposals(request: Request, refusal: Refusal, made: list[Change]) -> Iterator[Change]:
    """The first kind of change that the sentence speaks of; one may make the next needless."""
    text = _THOUSANDS.sub("", refusal.message)
    budgets = [name for name in _OTHER_NAME if name in request]
    if _ROLES.search(text) or (_SYSTEM.search(text) and _REFUSED.search(text)):
        yield Change("merge", "messages")
    elif "stream" not in request and _STREAM_ONLY.search(text):
        yield Change("stream", "stream")
    elif budgets and _CONTEXT.search(text):
        yield from (Change("drop", name, lasting=False) for name in budgets)
    elif budgets and _is_of_size(request, refusal, text):
        yield from (_lowered(name, request[name], text, made) for name in budgets)
    else:
        for name in _refused_options(request, refusal, text):
            yield _renamed(name, made) if name in _OTHER_NAME else Change("drop", name)


def _is_of_size(request: Request, refusal: Refusal, text: str) -> bool:
    """Whether a budget is refused for its size, and not for its name."""
    about = bool(_BUDGET.search(text)) or refusal.param in _OTHER_NAME
    named = any(_numbers_below(request[name], text) for name in _OTHER_NAME if name in request)
    return about and bool(_TOO_LARGE.search(text)) and (named or not _REFUSED.search(text))


def _lowered(name: str, asked: Any, text: str, made: list[Change]) -> Change:
    """To the most that the sentence names; without a budget where that was refused too, or none is named."""
    below, again = _numbers_below(asked, text), any(change.action == "lower" for change in made)
    return Change("lower", name, max(below)) if below and not again else Change("drop", name, lasting=again)


def _numbers_below(asked: Any, text: str) -> list[int]:
    numbers = map(int, re.findall(r"\b\d{2,8}\b", text))
    return [number for number in numbers if _is_above(asked, number)]


def _is_above(value: Any, limit: int) -> bool:
    return isinstance(value, int | float) and value > limit


def _renamed(name: str, made: list[Change]) -> Change:
    """To the other name; without a budget where the server knew neither."""
    other = _OTHER_NAME[name]
    known = all(change.option != other for change in made)
    return Change("rename", name, other) if known else Change("drop", name)


def _refused_options(request: Request, refusal: Refusal, text: str) -> list[str]:
    """Options of the request that are named in a sentence which refuses, else the one that the server names beside."""
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if _REFUSED.search(sentence)]
    options = [option for option in request if option not in ("model", "messages")]
    named = [option for option in options if any(_names(sentence, option, request) for sentence in sentences)]
    if len(named) > 1 and any(re.search(r"\bboth\b", sentence) for sentence in sentences):
        return named[1:]  # `temperature` and `top_p` cannot both be specified: the first is what users mean
    by_param = [option for option in options if refusal.param.split(".")[0] == option]
    return named or (by_param if sentences else [])


def _names(sentence: str, option: str, request: Request) -> bool:
    """Whether a sentence names an option or, of one with parts, a part: `json_schema`, `enable_thinking`."""
    parts = request[option] if isinstance(request[option], dict) else {}
    names = [option, *(part for part in parts if isinstance(part, str) and "_" in part)]
    return any(re.search(_pattern(name), sentence, re.I) for name in names)


def _pattern(name: str) -> str:
    """A name, perhaps with blanks for its underscores; a short one, which may be a word, only in quotation marks."""
    words = re.escape(name).replace("_", "[_ -]?")
    return rf"(?<!\w){words}(?!\w)" if len(name) > 4 else rf"['\"`]{words}['\"`]"


def _merge_system(request: Request) -> bool:
    """The system prompt before the first message of the user."""
    system, *others = request["messages"]
    place = next((place for place, message in enumerate(others) if message.get("role") == "user"), None)
    if system.get("role") not in ("system", "developer") or place is None:
        return False
    content = others[place]["content"]
    if isinstance(content, str) and isinstance(system["content"], str):
        merged: Any = f"{system['content']}\n\n{content}"
    else:
        merged = [*_as_parts(system["content"], "\n\n"), *_as_parts(content)]
    request["messages"] = [*others[:place], others[place] | {"content": merged}, *others[place + 1 :]]
    return True


def _as_parts(content: Any, end: str = "") -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": f"{content}{end}"}]
