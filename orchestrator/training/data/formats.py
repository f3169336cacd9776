"""What training rows look like: the shapes that people publish, read into messages, and why a row is unfit."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.training.data import cells, turns
from orchestrator.training.data.cells import UnfitError, missing, nothing, shown, yes_or_no
from orchestrator.training.data.turns import Message, check, check_prompt, with_system

Row = Mapping[str, Any]

# What is imitated, a worked answer before a bare one.
TEXT_PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "solution"),
    ("question", "response"),
    ("question", "answer"),
    ("problem", "solution"),
    ("problem", "answer"),
    ("instruction", "response"),
    ("query", "response"),
    ("prompt", "answer"),
    ("input", "output"),
)
# What is compared, a bare answer before a worked one.
QUESTIONS = ("question", "problem", "prompt", "instruction", "query", "input")
GOLDS = ("answer", "final_answer", "ground_truth", "solution", "response", "completion", "output")
VERL_RL = ("data_source", "prompt", "reward_model")

SYSTEMS = ("system", "system_prompt", "system_message")
# Columns, by their letters alone, that say something else than what would be trained without them, where a shape does
# not use them.
DECIDING = re.compile(
    r"system(?:prompt|message)?|context|history|input|documents|(?:available)?(?:tools|functions)"
    r"|(?:tool|function)s?(?:calls?|definitions?|schemas?|specs?|list)"
    r"|(?:image|img|video|audio)s?(?:urls?|uris?|paths?|files?|data|bytes|base64)?"
)
THOUGHTS = re.compile(
    r"reasoning(?:content|text|details|trace)?|thinking(?:content|blocks)?|thoughts?|chainofthought|cot"
)
# Flags of a whole row that may also be a figure or a class: only a plain false says "not this one".
AMBIGUOUS = frozenset({"loss", "label", "target", "training", "supervised", "learn"})


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A format of rows: its name, the columns that it uses, and how a row becomes what verl trains on.

    `unused_keys` gathers the keys of turns that were read and skipped.
    """

    name: str
    columns: frozenset[str]
    read: Callable[[Row], Any]
    unused_keys: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class RewardedQuestion:
    """A row for PPO: the prompt's messages and the right answer; `extra` goes along for the reward."""

    prompt: list[Message]
    gold: str
    ability: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


def conversation_shape(columns: Sequence[str]) -> RowFormat | None:
    """The shape of rows for SFT with these columns; its `read` gives a row's checked messages. None: not known."""
    for column, name in (("messages", "messages"), ("conversations", "ShareGPT")):
        if column in columns:
            return _turns_shape(name, column)
    if {"instruction", "output"} <= set(columns):
        return _text_shape("Alpaca", "instruction", "output", ["input", "context"])
    if pair := next((pair for pair in TEXT_PAIRS if set(pair) <= set(columns)), None):
        return _text_shape("/".join(pair), *pair, _given(pair[0]))
    return None


def question_shape(columns: Sequence[str], question_key: str | None, answer_key: str | None) -> RowFormat | None:
    """The shape of rows for PPO; its `read` gives a Question. None: not known, or no column of that name."""
    question = question_key or next((name for name in QUESTIONS if name in columns), None)
    answer = answer_key or next((name for name in GOLDS if name in columns and name != question), None)
    if question is None or answer is None or not {question, answer} <= set(columns):
        return None
    given, unused = [name for name in _given(question) if name != answer], set[str]()
    used = frozenset({question, answer, "history", *SYSTEMS, *given})

    def read(row: Row) -> RewardedQuestion:
        _refuse(row, used, DECIDING)
        if isinstance(row.get(question), list | tuple):
            prompt = turns.turns(row[question], question, unused)
        else:
            prompt = [*_history(row), {"role": "user", "content": _asked(row, question, given)}]
        return RewardedQuestion(check_prompt(with_system(_system(row), prompt)), cells.gold(row, answer))

    return RowFormat(f"{question}/{answer}", used, read, unused)


def verl_shape(columns: Sequence[str]) -> RowFormat | None:
    """Rows in verl's own schema for PPO, which pass through as they are; `read` checks one."""
    if not set(VERL_RL) <= set(columns):
        return None
    unused: set[str] = set()

    def read(row: Row) -> Row:
        if not isinstance(row.get("data_source"), str) or missing(row["data_source"]):
            raise UnfitError("no data_source", "data_source is not a text")
        prompt = check_prompt(turns.turns(row.get("prompt"), "prompt", unused))
        judged = row.get("reward_model")
        if not isinstance(judged, dict) or nothing(judged.get("ground_truth")):
            raise UnfitError("no ground truth", "reward_model has no ground_truth")
        if not isinstance(row.get("extra_info", {}), dict | None):
            raise UnfitError("no extra_info", f"extra_info is a {type(row['extra_info']).__name__}, expected an object")
        return {**row, "prompt": prompt}

    return RowFormat("verl", frozenset(columns), read, unused)


def _turns_shape(name: str, column: str) -> RowFormat:
    unused: set[str] = set()
    return _shape(name, [column], lambda row: turns.turns(row.get(column), column, unused), unused)


def _given(question: str) -> list[str]:
    """The columns whose text follows the question: what it is about."""
    return ["input", "context"] if question == "instruction" else ["context"]


def _text_shape(name: str, question: str, answer: str, given: Sequence[str]) -> RowFormat:
    def read(row: Row) -> list[Message]:
        asked = {"role": "user", "content": _asked(row, question, given)}
        return [*_history(row), asked, {"role": "assistant", "content": cells.field(row, answer)}]

    return _shape(name, [question, answer, *given, "history"], read, set())


def _shape(name: str, columns: Iterable[str], read: Callable[[Row], list[Message]], unused: set[str]) -> RowFormat:
    used = frozenset({*columns, *SYSTEMS})

    def checked(row: Row) -> list[Message]:
        _refuse(row, used, DECIDING, THOUGHTS)
        return check(with_system(_system(row), read(row)))

    return RowFormat(name, used, checked, unused)


def _refuse(row: Row, used: frozenset[str], *deciding: re.Pattern[str]) -> None:
    """Raises UnfitError where a column that is not `used` holds what decides, or says to leave the row out."""
    for column, value in row.items():
        if column in used or nothing(value):
            continue
        name = _letters(column)
        if any(names.fullmatch(name) for names in deciding):
            said = shown(column)
            raise UnfitError(f"column {said}", f"{said} would change what is trained, and cannot be used here")
        if _says_no(name, value):
            raise UnfitError(turns.NOT_TRAINED, f"the row has {shown(column)}: {shown(value)}")


@functools.lru_cache(4096)
def _letters(column: str) -> str:
    return turns.letters(column)


def _says_no(name: str, value: object) -> bool:
    """Whether a flag of a whole row says that it is not to be trained on."""
    said = yes_or_no(value)
    if name == "weight":
        return said is not True
    if name in AMBIGUOUS:
        return value is False
    return (said is False and name in turns.TRAINED_IF | {"ktotag"}) or (said is True and name in turns.PASSED_OVER_IF)


def _asked(row: Row, question: str, given: Sequence[str]) -> str:
    """The question, and below it what it is about."""
    about = [cells.text(row[column], column) for column in given if not missing(row.get(column))]
    return "\n\n".join([cells.field(row, question), *about])


def _system(row: Row) -> str | None:
    """A system prompt that stands in a column of its own. Raises UnfitError where two columns have different ones."""
    found = {cells.text(row[column], column) for column in SYSTEMS if not missing(row.get(column))}
    if len(found) > 1:
        raise UnfitError("two system prompts", "the columns have different system prompts")
    return found.pop() if found else None


def _history(row: Row) -> list[Message]:
    """Alpaca's earlier turns: pairs of a question and its answer."""
    messages = []
    for number, pair in enumerate(_list_of(row, "history"), start=1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise UnfitError("column history", f"entry {number} of history is not a pair of a question and an answer")
        for role, said in zip(("user", "assistant"), pair, strict=True):
            messages.append({"role": role, "content": cells.text(said, f"entry {number} of history")})
    return messages


def _list_of(row: Row, column: str) -> Sequence[Any]:
    value = row.get(column)
    if nothing(value):
        return ()
    if not isinstance(value, list | tuple):
        raise UnfitError(f"column {column}", f"{column} is a {type(value).__name__}, expected a list")
    return value
