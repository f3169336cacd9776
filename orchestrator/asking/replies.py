"""What a 200 holds, read into three things that the rest can rely on: a `Reply` is an answer or a settled failure,
a `Fault` is worth asking again, a `Refusal` is an error that the server reported in spite of its 200.

Whatever a body holds, the fields have the types that are written here, every text can be written as JSON, and keys of
this run that a server echoes are struck out. Decided where servers differ:

- `usage` is three counts or null as a whole: half of it would be read as 0 tokens, which was not measured. A missing
  half is what `total_tokens` leaves, where that is given. The total is the sum of the two, whatever else a server adds.
- Of several choices the one with index 0 counts, else the first.
- Content that is not a text (a number, an object, a truth value) is its JSON text: that is what was said.
- A thought is never taken as the answer, even where nothing else came: that is `failed`, `empty`, with the thought.
- An answer that a filter cut off is `failed` with the reason 4xx, as the refusal of a prompt would be. What had been
  written stands in `detail`: a failed answer has no response that could be scored.
- A thought that the server took out and one that it left in the text are both kept, in this order.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from orchestrator.asking.repetition import has_loop
from orchestrator.asking.retry import Fault
from orchestrator.asking.thoughts import split_thought
from orchestrator.endpoints.bodies import THOUGHT_KEYS, json_text, read_body
from orchestrator.endpoints.refusals import Refusal, one_line, read_message, refusal_within
from orchestrator.records.types import Reason, Status, Usage
from orchestrator.secrets import strike_out

COUNT_LIMIT = 2**40  # tokens; more is not a count, and the sum over a million records stays below 63 bits
_NAME_LIMIT = 100  # characters of a finish reason or a fingerprint; real ones have 30

Ending = Literal["done", "loop", "truncated", "filtered", "broken"]

# What finish reasons say, in the words of OpenAI, Anthropic, Gemini, Mistral, DeepSeek, Zhipu, sglang and TGI.
_WORDS: tuple[tuple[Ending, str], ...] = (
    ("loop", r"repetition"),
    (
        "truncated",
        r"length|max_?(\w+_)?tokens?|(tokens?|output|error)_?limit|context_?window|truncat|incomplete|cut_?off",
    ),
    (
        "filtered",
        r"filter|safety|toxic|^language$|recitation|prohibited|block|spii|sensitive|guardrail|moderat|refus|flagged|violat",
    ),
    (
        "broken",
        r"error|abort|cancel|time_?d?_?(out|limit)|dead|insufficient|unavailable|interrupt|overload|fail|connect",
    ),
    ("broken", r"network|killed|preempt|shut_?down|crash|exception|lost|expired|evict"),
)
_ENDINGS = tuple((ending, re.compile(words)) for ending, words in _WORDS)
_FINISH_KEYS = ("finish_reason", "finishReason", "finish_details", "stop_reason", "done_reason")
# Of OpenAI, Anthropic, Gemini and Ollama; compared without case and underscores.
_PROMPT_KEYS = ("prompttokens", "inputtokens", "prompttokencount", "promptevalcount")
_COMPLETION_KEYS = ("completiontokens", "outputtokens", "candidatestokencount", "evalcount")
_WRAPPERS = ("result", "response", "data")
_PART_KEYS = ("text", "content", "thinking", "reasoning", "summary", "value", "refusal")
_THOUGHT_PART = re.compile("think|thought|reason", re.I)  # in a part's type


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said, and asking again would not change."""

    status: Status
    reason: Reason | None = None
    detail: str | None = None
    response: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    system_fingerprint: str | None = None  # what the server calls the state that it is in


class _Said(NamedTuple):
    """The texts of a message."""

    response: str | None
    reasoning: str | None
    refusal: str | None


def read_reply(content: bytes) -> Reply | Fault | Refusal:
    """Read the body of a 200. A Fault where it holds no finished chat completion."""
    try:
        body = read_body(content)
        if isinstance(body, dict):
            body = _completion(body)
            choice = _choice(body)
            error = _error(body) or (choice and _error(choice))
            if choice and not error:
                return _read_choice(body, choice)
            refusal = refusal_within(error or body)
            if refusal:
                return refusal
    except (ValueError, RecursionError, TypeError):
        pass  # no JSON, brackets without end, or shapes that hold no message
    return Fault("5xx", f"200 without a chat completion: {read_message(content)}")


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    """The completion that a gateway has wrapped, or that Ollama sends as one message; else the body as it is."""
    if "choices" in body or _error(body):
        return body
    inner: dict[str, Any] = next((body[key] for key in _WRAPPERS if isinstance(body.get(key), dict)), {})
    message = body.get("message")
    if isinstance(message, dict) and "content" in message:
        return body | {"choices": [body]}
    return inner if "choices" in inner else body


def _choice(body: dict[str, Any]) -> dict[str, Any] | None:
    choices = body.get("choices")
    if isinstance(choices, dict):
        return choices
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return next((choice for choice in found if choice.get("index") in (0, "0")), found[0] if found else None)


def _error(holder: dict[str, Any]) -> Any:
    """The error that stands in a body or a choice; None for the forms that say that there is none."""
    error = holder.get("error")
    if isinstance(error, dict) and (not any(error.values()) or error.get("code") in (0, "0", 200, "200")):
        return None
    return holder if error is True else error or (holder if holder.get("object") == "error" else None)


def _read_choice(body: dict[str, Any], choice: dict[str, Any]) -> Reply | Fault:
    said, finish = _read_message(choice), _finish(choice)
    ending = _ending(finish or "")
    if ending == "broken":
        return Fault("5xx", f"200 with finish_reason {finish}")
    status, reason, detail = _judge(said, finish, ending)
    return Reply(
        status,
        reason,
        said.refusal or detail,
        None if ending == "filtered" else said.response,
        said.reasoning,
        finish,
        _usage(body.get("usage") or choice.get("usage")),
        _short(body.get("system_fingerprint")),
    )


def _read_message(choice: dict[str, Any]) -> _Said:
    """The texts of a choice. Raises ValueError where it has no message."""
    message = choice.get("message", choice.get("delta", choice.get("messages")))
    if isinstance(message, list) and len(message) == 1:
        message = message[0]
    if isinstance(message, str):
        message = {"content": message}
    if not isinstance(message, dict):
        if "text" not in choice:
            raise ValueError("a choice without a message")
        message = {}
    content = message.get("content")
    content = choice.get("text") if content is None else content
    refusal = _refusal_text(message.get("refusal"))
    thought = next((text for key in THOUGHT_KEYS if (text := _plain(message.get(key)))), None)
    if not isinstance(content, str) and content is not None:
        content, inner, refused = _take_apart(content)
        thought, refusal = _both(thought, inner), refusal or refused
    if content:
        inner, content = split_thought(content)
        thought = _both(thought, inner)
    return _Said(content and strike_out(content), thought and strike_out(thought), refusal)


def _refusal_text(value: Any) -> str | None:
    if not value:
        return None
    return "the model refused" if value is True else one_line(_plain(value) or json_text(value))


def _take_apart(content: Any) -> tuple[str | None, str | None, str | None]:
    """Answer, thought and refusal of a content that is not a text: parts, or a value that is the answer itself."""
    if isinstance(content, dict) and len(content) == 1:  # Gemini's {"parts": […]}
        content = content.get("parts", content.get("content", content))
    parts = content if isinstance(content, list) else [content]
    if parts and not any(_is_part(part) for part in parts):
        return json_text(content), None, None
    texts: dict[str, list[str]] = {"answer": [], "thought": [], "refusal": []}
    for part in parts:
        texts[_kind(part)].append(_plain(part) or "")
    answer, thought, refusal = ("".join(pieces) or None for pieces in texts.values())
    return answer, thought, refusal and one_line(refusal)


def _is_part(value: Any) -> bool:
    """A text, null, or an object that says what it is, as OpenAI, Anthropic and Mistral write parts."""
    if isinstance(value, dict):
        return value.keys() == {"text"} or (
            isinstance(value.get("type"), str) and any(key in value for key in _PART_KEYS)
        )
    return value is None or isinstance(value, str)


def _kind(part: Any) -> str:
    name = part.get("type") if isinstance(part, dict) else None
    if not isinstance(name, str):
        return "answer"
    return "thought" if _THOUGHT_PART.search(name) else "refusal" if "refusal" in name else "answer"


def _plain(value: Any) -> str | None:
    """The text within a value, however it is wrapped; None where there is none."""
    if isinstance(value, str) or not value:
        return value or None
    if isinstance(value, list):
        return "".join(filter(None, map(_plain, value))) or None
    if isinstance(value, dict):
        return next((text for key in _PART_KEYS if (text := _plain(value.get(key)))), None)
    return json_text(value)


def _both(thought: str | None, inner: str | None) -> str | None:
    if thought and inner and inner not in thought:
        return f"{thought}\n\n{inner}"
    return thought or inner


def _finish(choice: dict[str, Any]) -> str | None:
    for key in _FINISH_KEYS:
        value = choice.get(key)
        if isinstance(value, dict):  # sglang and old OpenAI: {"type": "length", …}
            value = value.get("type") or value.get("reason")
        if isinstance(value, str) and value:
            return _short(value)
    return None


def _short(value: Any) -> str | None:
    """A name that the server gives; None for what is not a name."""
    return one_line(value)[:_NAME_LIMIT] or None if isinstance(value, str) else None


@lru_cache(maxsize=256)
def _ending(finish: str) -> Ending:
    name = finish.lower()
    return next((ending for ending, words in _ENDINGS if words.search(name)), "done")


def _judge(said: _Said, finish: str | None, ending: Ending) -> tuple[Status, Reason | None, str | None]:
    if ending == "loop":
        return "truncated", "repetition", "the engine found a loop"
    if ending == "truncated":
        return "truncated", "repetition" if has_loop(said.response or said.reasoning or "") else "length", None
    if ending == "filtered":
        written = f" after: {said.response}" if said.response else ""
        return "failed", "4xx", one_line(f"{finish}: the server withholds the answer{written}")
    if not said.response or said.response.isspace():
        return "failed", "empty", f"no text, finish_reason {finish}"
    return "ok", None, None


def _usage(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    usage = {name.replace("_", "").lower(): value for name, value in reversed(usage.items())}  # the first of a name
    prompt, completion = _count(usage, _PROMPT_KEYS), _count(usage, _COMPLETION_KEYS)
    if prompt is None or completion is None:
        total = _count(usage, ("totaltokens", "totaltokencount"))
        known = prompt if completion is None else completion
        if total is None or known is None or known > total:
            return None
        prompt, completion = (known, total - known) if completion is None else (total - known, known)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _count(usage: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    """The first of `keys` that is a number of tokens: an integer from 0 on, also as 10.0 or "10"."""
    for key in keys:
        value = usage.get(key)
        if isinstance(value, str) and len(value) < 20 and re.fullmatch(r"[ \t]*[0-9]+(?:\.0+)?[ \t]*", value):
            value = int(float(value)) if "." in value else int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and 0 <= value < COUNT_LIMIT:
            return value
    return None
