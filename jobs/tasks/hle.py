"""Humanity's Last Exam: its rows, prompts, judge, figures and files.

Row schema, labels and judge schema are those of `cais/hle` and its official code; the prompts' wording is ours.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from jobs.tasks import images, metrics, official_layout
from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.rows import require, text_of, writable
from jobs.tasks.stated_answer import rule_verdict
from jobs.tasks.task import Exporter, Item, Task, Verdict
from jobs.tasks.yes_no_judge import YesNoJudge

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


def _print(message: str) -> None:
    print(message, file=sys.stderr)


def items_from_rows(rows: Iterable[Mapping[str, Any]], tell: Callable[[str], object] = _print) -> list[Item]:
    """Check every row and make it an Item.

    An answer_type that is neither of HLE's two counts as exactMatch, the stricter one, and `tell` gets how many do:
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


def _item(row: Mapping[str, Any], number: int, odd: Counter[str]) -> Item:
    """The item of a row; an answer_type that is not known is counted in `odd`."""
    if not isinstance(row, Mapping):
        raise ValueError(f"row {number} is a {type(row).__name__}, expected an object with {', '.join(FIELDS)}")
    where = f"row {number}"
    identity = text_of(row, "id", where, numbers=(int,))
    where += f" (id {identity!r})"
    answer = "gold" if "gold" in row and "answer" not in row else "answer"
    try:
        image = images.as_uri(row.get("image"))
    except ValueError as error:
        raise ValueError(f"{where}: image {error}") from None
    return Item(
        id=sys.intern(identity),
        question=text_of(row, "question", where),
        answer=text_of(row, answer, where, numbers=(int, float)),
        answer_type=_answer_type(row, where, odd),
        category=sys.intern(text_of(row, "category", where)),
        image=image if image.isascii() else writable(image),
    )


def _answer_type(row: Mapping[str, Any], where: str, odd: Counter[str]) -> str:
    """One of ANSWER_TYPES, however it is spelled: exact_match, Multiple Choice."""
    require(row, "answer_type", where)
    value = row["answer_type"]
    letters = re.sub(r"[\W_]", "", value).lower() if isinstance(value, str) else ""
    for known in ANSWER_TYPES:
        if letters == known.lower():
            return known
    odd[repr(value)[:40]] += 1
    return ANSWER_TYPES[0]


class HumanitysLastExam(Task):
    """2,500 questions of experts, with one answer each; the model states a confidence, whose calibration is scored."""

    name = "hle"
    dataset = "cais/hle"
    columns = COLUMNS
    system_prompt = load_prompt("hle_system.txt")[0]
    judge = YesNoJudge(load_prompt("hle_judge.txt")[0])
    known_categories = CATEGORIES
    exports = (
        Exporter(partial(official_layout.export_predictions, name)),
        Exporter(partial(official_layout.export_judgements, name), needs_verdicts=True),
    )

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        return items_from_rows(rows)

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        return rule_verdict(item, responses[-1])

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        """With the calibration, and all categories of the official table."""
        categories = {identity: item.category for identity, item in items.items()}
        return metrics.score(categories, samples, outcomes, self.known_categories)


TASK = HumanitysLastExam()
