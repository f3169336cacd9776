"""Conversations as lists of turns: OpenAI's role and content, ShareGPT's from and value, and all that a turn may say
besides. verl trains on the text of every assistant's turn, so a turn that means anything else makes its row unfit."""

import functools
import re
from typing import Any

from orchestrator.training.data.cells import UnfitError, missing, nothing, shown, text, yes_or_no

Message = dict[str, str]

USED = frozenset({"role", "from", "content", "value"})
SPEAKERS = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
TOOL_SPEAKERS = frozenset({"tool", "function", "functioncall", "toolcall", "observation", "ipython", "toolresponse"})
TOOLS = "tools"
# Keys of a turn by their letters alone ("Tool-Calls" is toolcalls), and the reason for which they make a row unfit.
UNFIT_KEYS: dict[str, re.Pattern[str]] = {
    TOOLS: re.compile(r"(?:available|openai)?(?:tool|function).*"),
    "reasoning": re.compile(r".*(?:reasoning|thinking|thoughts?|scratchpad).*|think|cot|analysis|rationale"),
    "media": re.compile(
        r"(?:input|output)?(?:image|img|picture|video|audio|media|file|attachment|document)s?"
        r"(?:urls?|uris?|paths?|files?|names?|data|bytes|b64|base64|ids?|content)?"
    ),
    "a turn with more than its text": re.compile("name|prefix|prefill|partial|refusal"),
}
TRAINED_IF = frozenset(
    {"weight", "lossweight", "train", "trainable", "istrainable", "training", "trainonturn", "shouldtrain", "loss"}
    | {"computeloss", "calculateloss", "lossmask", "learn", "supervised", "target", "includeinloss", "inloss"}
    | {"applyloss", "useloss", "hasloss", "withloss", "dotrain", "totrain", "trainon", "trainonthis", "usefortraining"}
)
PASSED_OVER_IF = frozenset(
    {"mask", "masked", "ignore", "ignored", "skip", "noloss", "skiploss", "ignoreloss", "notrain", "donottrain"}
    | {"excluded", "exclude", "frozen", "ismasked", "maskloss", "isignored", "excludefromloss", "donttrain"}
    | {"excludefromtraining", "nottrained", "untrained", "skiptraining", "ignoreintraining", "notrainable"}
)
NOT_TRAINED = "not to be trained on"


def turns(value: object, column: str, unused: set[str]) -> list[Message]:
    """The turns of a column as messages, an empty system turn left out; keys that say nothing to a training go into
    `unused`. Raises UnfitError."""
    if not isinstance(value, list | tuple):
        raise UnfitError("missing field", f"{column} is not a list of turns")
    messages = [_turn(turn, number, unused) for number, turn in enumerate(value, start=1)]
    if messages and messages[0]["role"] == "system" and missing(messages[0]["content"]):
        del messages[0]
    return messages


def check(messages: list[Message]) -> list[Message]:
    """The same messages, if a model can be trained on them: [system] (user assistant)+, none of them empty."""
    if not messages:
        raise UnfitError("no turns", "the conversation has no turns")
    for number, message in enumerate(messages, start=1):
        text(message["content"], f"turn {number}")
    roles = [message["role"] for message in messages]
    first = 1 if roles[0] == "system" else 0
    for place, role in enumerate(roles[first:]):
        expected = ("user", "assistant")[place % 2]
        if role != expected:
            raise UnfitError("order of roles", f"turn {first + place + 1} is from {role!r}, expected {expected!r}")
    if roles[-1] != "assistant":
        raise UnfitError("order of roles", f"the last turn is from {roles[-1]!r}, expected 'assistant'")
    return messages


def check_prompt(messages: list[Message]) -> list[Message]:
    """A prompt is a conversation that lacks only its last answer."""
    check([*messages, {"role": "assistant", "content": "the model's answer"}])
    return messages


def with_system(system: str | None, messages: list[Message]) -> list[Message]:
    """A row's own system prompt is the first turn of its conversation. Raises UnfitError where there are two."""
    if system is None:
        return messages
    if messages and messages[0]["role"] == "system":
        if messages[0]["content"] != system:
            raise UnfitError("two system prompts", "the column and the first turn have different system prompts")
        return messages
    return [{"role": "system", "content": system}, *messages]


def letters(key: object) -> str:
    """A key without case, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", str(key)).casefold()


@functools.lru_cache(4096)
def unfit_reason(name: str) -> str | None:
    """Why a key with these letters makes its row unfit, where it holds something."""
    return next((reason for reason, names in UNFIT_KEYS.items() if names.fullmatch(name)), None)


def _turn(turn: object, number: int, unused: set[str]) -> Message:
    if not isinstance(turn, dict):
        raise UnfitError("no role", f"turn {number} is a {type(turn).__name__}, expected an object with a role")
    role = _role(turn, number)
    for key, value in turn.items():
        if key not in USED and not nothing(value):
            _check_key(key, value, role, number, unused)
    said = [turn[key] for key in ("content", "value") if not missing(turn.get(key))]
    if len(said) == 2 and said[0] != said[1]:
        raise UnfitError("two texts", f"turn {number} has a content and another value")
    return {"role": role, "content": said[0] if said else ""}


def _role(turn: dict[Any, Any], number: int) -> str:
    speakers = [turn[key] for key in ("role", "from") if not missing(turn.get(key))]
    if not speakers:
        raise UnfitError("no role", f"turn {number} has no role")
    roles = {SPEAKERS.get(letters(speaker)) if isinstance(speaker, str) else None for speaker in speakers}
    if any(letters(speaker) in TOOL_SPEAKERS for speaker in speakers):
        raise UnfitError(TOOLS, f"turn {number} calls a tool or answers as one, which is not supported")
    role = roles.pop()
    if role is None or roles:
        said, known = " and ".join(repr(shown(speaker)) for speaker in speakers), ", ".join(SPEAKERS)
        raise UnfitError("unknown role", f"turn {number} is from {said}, expected one of {known}")
    return role


def _check_key(key: object, value: object, role: str, number: int, unused: set[str]) -> None:
    """Raises UnfitError for what the training would lose or do against the turn's own word."""
    name = letters(key)
    if name in TRAINED_IF | PASSED_OVER_IF:
        wanted = name in TRAINED_IF
        if role == "assistant" and yes_or_no(value) is not wanted:
            said = f"{shown(key)}: {shown(value)}"
            raise UnfitError(NOT_TRAINED, f"turn {number} has {said}, and all of an assistant's turns are trained on")
        return
    reason = unfit_reason(name)
    if reason and not (isinstance(value, bool | int) and not value):  # has_image: false
        raise UnfitError(reason, f"turn {number} has {shown(key)}, which would be lost")
    unused.add(shown(key))
