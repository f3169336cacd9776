"""Humanity's Last Exam: its questions, its prompts, and how a verdict on an answer is read.

Row schema, labels and judge schema are those of `cais/hle` and its official code; the prompts' wording is ours.
"""

import difflib
import hashlib
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.tasks import answers, gsm8k, images
from jobs.tasks.verdicts import Verdict

CATEGORIES = (
    "Biology/Medicine",
    "Chemistry",
    "Computer Science/AI",
    "Engineering",
    "Humanities/Social Science",
    "Math",
    "Physics",
    "Other",
)
ANSWER_TYPES = ("exactMatch", "multipleChoice")
# The data set's other columns hold decoded pictures (image_preview, rationale_image) or are not needed.
FIELDS = ("id", "question", "answer", "answer_type", "category", "image")
COLUMNS = (*FIELDS, "gold")  # what the teams' results.jsonl calls the answer
PROMPTS = Path(__file__).parent / "prompts"

VERDICT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "extracted_final_answer": {"type": "string"},
        "reasoning": {"type": "string"},
        "correct": {"type": "string", "enum": ["yes", "no"]},
        "confidence": {"type": "integer"},
        "strict": {"type": "boolean", "const": True},
    },
    "required": ["extracted_final_answer", "reasoning", "correct", "confidence", "strict"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its reference answer."""

    id: str
    question: str
    answer: str
    answer_type: str
    category: str
    image: str = ""  # a data URI; "" where the question is text only


def _print(message: str) -> None:
    print(message, file=sys.stderr)


def items_from_rows(rows: Iterable[Mapping[str, Any]], tell: Callable[[str], object] = _print) -> list[Item]:
    """Check every row and make it an Item.

    An answer_type that is neither of HLE's two counts as exactMatch, the stricter one, and `tell` hears how many do:
    one such row must not cost a whole score. The teams' results.jsonl is taken as well: its `gold` is the answer, and a
    question that it holds once a sample counts once.

    Raises ValueError with one sentence naming the row and its field; also for duplicate ids and for no rows at all.
    """
    items: list[Item] = []
    seen: dict[str, int] = {}
    odd: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        item = _item(row, number, odd)
        if item.id in seen:
            if "gold" in row and items[seen[item.id]] == item:
                continue
            first = seen[item.id] + 1
            raise ValueError(f"rows {first} and {number} both have the id {item.id!r}; ids must be unique")
        seen[item.id] = len(items)
        items.append(item)
    if not items:
        raise ValueError("there are no questions in it; expected at least one row")
    if odd:
        shown = ", ".join(name for name, _ in odd.most_common(3))
        tell(f"{odd.total()} of {len(items)} questions have no known answer_type ({shown}): taken as exactMatch")
    return items


def select(
    items: Iterable[Item],
    *,
    multimodal: bool = False,
    categories: Sequence[str] = (),
    question_ids: Sequence[str] = (),
    max_samples: int | None = None,
) -> list[Item]:
    """The questions that are asked for: text-only ones unless `multimodal`, and of these the first `max_samples`.

    Raises ValueError for a category or id that the data do not have, and when nothing is left.
    """
    everything = list(items)
    _check_known("category", categories, {item.category for item in everything})
    _check_known("question id", question_ids, {item.id for item in everything})
    wanted_categories, wanted_ids = set(categories), set(question_ids)
    chosen = [
        item
        for item in everything
        if (not wanted_categories or item.category in wanted_categories) and (not wanted_ids or item.id in wanted_ids)
    ]
    shown = [item for item in chosen if multimodal or not item.image]
    if wanted_ids and len(shown) < len(chosen):
        hidden = next(item.id for item in chosen if item.image)
        raise ValueError(f"question {hidden!r} has an image; give multimodal=true to ask it")
    if not shown:
        raise ValueError(
            f"the selection leaves none of {len(everything)} questions ({len(chosen)} fit but have an image)"
        )
    return shown[:max_samples]


def messages(item: Item, system_prompt: str) -> list[dict[str, Any]]:
    """The chat that asks one question. Text-only content is a plain string: small models' templates want that."""
    content: Any = item.question
    if item.image:
        picture = {"type": "image_url", "image_url": {"url": item.image}}
        content = [{"type": "text", "text": item.question}, picture]
    return [{"role": "system", "content": system_prompt}, {"role": "user", "content": content}]


def judge_messages(item: Item, response: str, template: str) -> list[dict[str, Any]]:
    """The chat that asks for a verdict on one response; the judge sees no image, as in the official code.

    Raises ValueError when `template` lacks {question}, {response} or {correct_answer}.
    """
    values = {"question": item.question, "response": response, "correct_answer": item.answer}
    missing = [name for name in values if f"{{{name}}}" not in template]
    if missing:
        raise ValueError(
            f"the judge's prompt has no {{{missing[0]}}}; it needs {{question}} {{response}} {{correct_answer}}"
        )
    # One pass, so that braces in a question or a response are never taken for placeholders.
    text = re.sub(r"\{(question|response|correct_answer)\}", lambda match: values[match[1]], template)
    return [{"role": "user", "content": text}]


def rule_verdict(item: Item, response: str) -> Verdict:
    """The verdict of the rule judge: the stated final answer equals the reference after normalising."""
    extracted, confidence = answers.read_answer(response)
    if extracted is None:
        return Verdict("no", None, "the response states no final answer", None)
    if answers.equivalent(extracted, item.answer, item.answer_type) or gsm8k.same(response, item.answer):
        return Verdict("yes", extracted, "equal to the reference after normalising", confidence)
    return Verdict("no", extracted, "not equal to the reference after normalising", confidence)


def load_prompt(name_or_path: str | Path) -> tuple[str, str]:
    """A prompt's text (outer white space removed) and its SHA-256: a shipped file by its name, or any file by path.

    Raises ValueError when it does not exist, is empty or is not UTF-8 text.
    """
    shipped = PROMPTS / Path(name_or_path).name
    given = Path(os.path.expanduser(name_or_path))  # noqa: PTH111 - which leaves a user that there is not as it is
    path = shipped if str(name_or_path) == shipped.name and shipped.is_file() else given
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"the prompt file {path} is not UTF-8 text") from None
    except OSError as error:
        names = ", ".join(sorted(file.name for file in PROMPTS.glob("*.txt")))
        raise ValueError(
            f"cannot read the prompt file {path} ({error.strerror}); the shipped ones are {names}"
        ) from None
    if not text:
        raise ValueError(f"the prompt file {path} is empty")
    return text, hashlib.sha256(text.encode()).hexdigest()


def _item(row: Mapping[str, Any], number: int, odd: Counter[str]) -> Item:
    """The item of a row; an answer_type that is not known is counted in `odd`."""
    if not isinstance(row, Mapping):
        raise ValueError(f"row {number} is a {type(row).__name__}, expected an object with {', '.join(FIELDS)}")
    where = f"row {number}"
    identity = _text(row, "id", where, numbers=(int,))
    where += f" (id {identity!r})"
    answer = "gold" if "gold" in row and "answer" not in row else "answer"
    try:
        image = images.as_uri(row.get("image"))
    except ValueError as error:
        raise ValueError(f"{where}: image {error}") from None
    return Item(
        id=sys.intern(identity),
        question=_text(row, "question", where),
        answer=_text(row, answer, where, numbers=(int, float)),
        answer_type=_answer_type(row, where, odd),
        category=sys.intern(_text(row, "category", where)),
        image=image if image.isascii() else _writable(image),
    )


def _answer_type(row: Mapping[str, Any], where: str, odd: Counter[str]) -> str:
    """One of ANSWER_TYPES, however it is spelled: exact_match, Multiple Choice."""
    _require(row, "answer_type", where)
    value = row["answer_type"]
    letters = re.sub(r"[\W_]", "", value).lower() if isinstance(value, str) else ""
    for known in ANSWER_TYPES:
        if letters == known.lower():
            return known
    odd[repr(value)[:40]] += 1
    return ANSWER_TYPES[0]


def _require(row: Mapping[str, Any], field: str, where: str) -> None:
    if field in row:
        return
    columns = [str(name) for name in getattr(row, "columns", row)]  # a reader may have left out what nobody asked for
    shown = ", ".join(name[:60] for name in columns[:12]) + (", …" if len(columns) > 12 else "")
    near = next((name for name in columns if name.strip().lower() == field), None)
    advice = f"; rename {near!r} to {field!r}" if near else ""
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        advice = "; separate the columns by commas"
    raise ValueError(f"{where} has no field {field!r}; it has {' '.join(shown.split())}{advice}")


def _text(row: Mapping[str, Any], field: str, where: str, numbers: tuple[type, ...] = ()) -> str:
    """A required field's text; numbers only where a reader may have made some out of digits."""
    _require(row, field, where)
    value = row[field]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {field} is {value} (not a number), expected text")
    if isinstance(value, numbers) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        seen = "null" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{where}: {field} is {seen}, expected text")
    if not value.strip():
        raise ValueError(f"{where}: {field} is empty")
    return _writable(value)


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can escape and no UTF-8 log can hold."""
    return text.encode(errors="replace").decode()


def _check_known(what: str, wanted: Sequence[str], known: set[str]) -> None:
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.4) or sorted(known)[:3]
            raise ValueError(f"there is no {what} {name!r}; the nearest are {', '.join(map(repr, near))}")
