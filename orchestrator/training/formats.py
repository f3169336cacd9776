"""What training rows look like: the shapes that people publish, read into messages, and why a row is unfit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Message = dict[str, str]

TEXT_PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("problem", "solution"),
    ("problem", "answer"),
    ("instruction", "response"),
    ("prompt", "answer"),
    ("input", "output"),
)
VERL_RL = ("data_source", "prompt", "reward_model")
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class UnfitError(Exception):
    """This row cannot be trained on. `reason` is the kind, the message says what exactly."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Shape:
    """A format of rows: its name, the columns that it uses, and how a row becomes what verl trains on."""

    name: str
    columns: frozenset[str]
    read: Callable[[Row], Any]


def conversation_shape(columns: Sequence[str]) -> Shape | None:
    """The shape of rows for SFT with these columns; its `read` gives a row's checked messages. None: not known."""
    if "messages" in columns:
        return Shape("messages", frozenset({"messages"}), lambda row: check(_turns(row, "messages")))
    if "conversations" in columns:
        used = frozenset({"conversations", "system"})
        return Shape("ShareGPT", used, lambda row: check(_system(row) + _sharegpt(row)))
    if {"instruction", "output"} <= set(columns):
        used = frozenset({"instruction", "input", "output", "system"})
        return Shape("Alpaca", used, lambda row: check(_system(row) + _alpaca(row)))
    pair = _pair(columns)
    if pair is None:
        return None
    used = frozenset({*pair, "system"})
    return Shape("/".join(pair), used, lambda row: check(_system(row) + _exchange(row, *pair)))


def question_shape(columns: Sequence[str], question_key: str | None, answer_key: str | None) -> Shape | None:
    """The shape of rows for PPO; its `read` gives (the prompt's messages, the answer). None: not known."""
    if question_key or answer_key:
        pair = (question_key or "question", answer_key or "answer")
    else:
        found = _pair(columns)
        if found is None:
            return None
        pair = found
    used = frozenset({*pair, "system"})
    return Shape("/".join(pair), used, lambda row: (_prompt(_system(row), row, pair[0]), _answer(row, pair[1])))


def verl_shape(columns: Sequence[str]) -> Shape | None:
    """Rows in verl's own schema for PPO, which pass through as they are; `read` checks one."""
    if not set(VERL_RL) <= set(columns):
        return None
    return Shape("verl", frozenset(columns), _checked_verl_row)


def check(messages: list[Message]) -> list[Message]:
    """The same messages, if a model can be trained on them: [system] (user assistant)+, none of them empty."""
    if not messages:
        raise UnfitError("no turns", "the conversation has no turns")
    for number, message in enumerate(messages, start=1):
        _check_text(message["content"], f"turn {number}")
    roles = [message["role"] for message in messages]
    first = 1 if roles[0] == "system" else 0
    for place, role in enumerate(roles[first:]):
        expected = ("user", "assistant")[place % 2]
        if role != expected:
            raise UnfitError("order of roles", f"turn {first + place + 1} is from {role!r}, expected {expected!r}")
    if roles[-1] != "assistant":
        raise UnfitError("order of roles", f"the last turn is from {roles[-1]!r}, expected 'assistant'")
    return messages


def _pair(columns: Sequence[str]) -> tuple[str, str] | None:
    return next((pair for pair in TEXT_PAIRS if set(pair) <= set(columns)), None)


def _turns(row: Row, column: str) -> list[Message]:
    """OpenAI's messages; what else a turn may have (name, tool_calls) must be empty, since it would be lost."""
    turns = []
    for number, turn in enumerate(_list(row, column), start=1):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise UnfitError("no role", f"turn {number} has no role")
        if turn["role"] == "tool" or turn.get("tool_calls"):
            raise UnfitError("tools", f"turn {number} calls a tool or answers as one, which is not supported")
        turns.append({"role": turn["role"], "content": turn.get("content")})
    return turns


def _sharegpt(row: Row) -> list[Message]:
    turns = _list(row, "conversations")
    if turns and isinstance(turns[0], dict) and "role" in turns[0]:
        return _turns(row, "conversations")
    messages = []
    for number, turn in enumerate(turns, start=1):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if speaker not in SHAREGPT_ROLES:
            known = ", ".join(SHAREGPT_ROLES)
            raise UnfitError("unknown role", f"turn {number} is from {speaker!r}, expected one of {known}")
        messages.append({"role": SHAREGPT_ROLES[speaker], "content": turn.get("value")})
    return messages


def _alpaca(row: Row) -> list[Message]:
    instruction = _check_text(row.get("instruction"), "instruction")
    given = row.get("input")
    if given:
        instruction = f"{instruction}\n\n{_check_text(given, 'input')}"
    return [{"role": "user", "content": instruction}, {"role": "assistant", "content": _field(row, "output")}]


def _exchange(row: Row, question: str, answer: str) -> list[Message]:
    return [
        {"role": "user", "content": _field(row, question)},
        {"role": "assistant", "content": _field(row, answer)},
    ]


def _prompt(system: list[Message], row: Row, column: str) -> list[Message]:
    """A text, or messages that end with the user's."""
    if isinstance(row.get(column), list):
        return _check_prompt(_turns(row, column))
    return [*system, {"role": "user", "content": _field(row, column)}]


def _check_prompt(messages: list[Message]) -> list[Message]:
    """A prompt is a conversation that lacks only its last answer."""
    check([*messages, {"role": "assistant", "content": "the model's answer"}])
    return messages


def _answer(row: Row, column: str) -> str:
    answer = row.get(column)
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        return str(answer)  # a number is as good a ground truth as its text
    return _field(row, column)


def _checked_verl_row(row: Row) -> Row:
    if not isinstance(row.get("data_source"), str):
        raise UnfitError("no data_source", "data_source is not a text")
    _check_prompt(_turns(row, "prompt"))
    judged = row.get("reward_model")
    if not isinstance(judged, dict) or judged.get("ground_truth") in (None, ""):
        raise UnfitError("no ground truth", "reward_model has no ground_truth")
    return row


def _system(row: Row) -> list[Message]:
    """A column `system` beside the conversation is its first turn."""
    return [{"role": "system", "content": _check_text(row["system"], "system")}] if row.get("system") else []


def _list(row: Row, column: str) -> list[Any]:
    value = row.get(column)
    if not isinstance(value, list):
        raise UnfitError("missing field", f"{column} is no list of turns")
    return value


def _field(row: Row, column: str) -> str:
    if row.get(column) is None:
        raise UnfitError("missing field", f"there is no {column}")
    return _check_text(row[column], column)


def _check_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UnfitError("not text", f"{where} is a {type(value).__name__}, expected text")
    if not value.strip():
        raise UnfitError("empty text", f"{where} is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and Parquet cannot
            raise UnfitError("not text", f"{where} holds a broken character") from None
    return value
