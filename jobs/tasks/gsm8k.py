"""GSM8K: grade school word problems whose answer is one number, which stands behind the last `####`.

One reading for all: the exam (`task=gsm8k`, and its rows in HLE's schema), the reward of a training and the preparation
of its rows read an answer with `answers.read_answer` and compare it with `answers.equivalent`. Behind the mark only the
number counts: `#### 72 apples` is 72 and `#### €5` is 5, where `Answer: 72 apples` and `Answer: €5` are not.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from jobs.tasks import answers
from jobs.tasks.characters import half_width
from jobs.tasks.numbers import bare_number, introduced_number, number
from jobs.tasks.task import Item, Task, Verdict
from orchestrator.records.types import digest

NAME = "openai/gsm8k"
MARK = "####"
INSTRUCTION = 'Reason step by step, then write the final answer after "####".'

Turn = dict[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """A row: the question, the worked answer word for word, and the number that it ends in, in plain digits."""

    question: str
    answer: str
    gold: str

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> "Problem":
        """Raises ValueError where a text is missing, or where the answer does not come to a number."""
        for column in ("question", "answer"):
            if not isinstance(row.get(column), str) or not row[column].strip():
                raise ValueError(f"it has no text {column}")
        gold = gold_of(row["answer"])
        if gold is None:
            last = row["answer"].strip().rpartition("\n")[2][-80:]
            raise ValueError(f"its answer ends in {last!r}, which is not a single number behind {MARK}")
        return cls(row["question"], row["answer"], gold)

    def prompt(self) -> list[Turn]:
        return [{"role": "user", "content": f"{self.question}\n\n{INSTRUCTION}"}]

    def conversation(self) -> list[Turn]:
        return [*self.prompt(), {"role": "assistant", "content": self.answer}]

    def exam_row(self, identity: str) -> dict[str, str]:
        """A row with the fields of HLE's rows."""
        return {
            "id": identity,
            "question": self.prompt()[0]["content"],
            "answer": self.gold,
            "answer_type": "exactMatch",
            "category": "Math",
            "image": "",
        }


def gold_of(text: object) -> str | None:
    """The number that a right answer ends in, as digits: of `72`, `$1,234`, `72.0` or GSM8K's `… #### 72`; None where
    there is no single number."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return None
    _, mark, stated = str(text).rpartition(MARK)
    value = number((mark and bare_number(stated)) or stated)
    return None if value is None else _digits(value)


class Gsm8k(Task):
    """The test split, 1,319 problems, asked in the words of the training and judged as it rewards."""

    name = "gsm8k"
    dataset = f"{NAME}:main"
    columns = ("id", "question", "answer")

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        return [_item(row, number) for number, row in enumerate(rows, start=1)]

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """Right where the stated answer is the right number."""
        stated, confidence = answers.read_answer(responses[-1])
        if stated is None:
            return Verdict("no", None, "the response states no final answer", None)
        if answers.equivalent(stated, item.answer, "exactMatch"):
            return Verdict("yes", stated, "the right number", confidence)
        return Verdict("no", stated, "not the right number", confidence)

    def reward(self, solution: str, ground_truth: Any) -> float:
        """A right answer that is not a number equals nothing; `jobs.ppo` drops such rows before the training."""
        gold = gold_of(ground_truth)
        return 0.0 if gold is None else super().reward(solution, gold)


TASK = Gsm8k()


def reward(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> float:
    """verl's reward function: 1 where the exam finds the solution right, else 0."""
    return TASK.reward(solution_str, ground_truth)


def same(response: str, gold: str) -> bool:
    """Whether what the response states behind the mark is `gold`, word for word or, for an amount, by its number.

    For the exam, whose references may be amounts or lengths as well: `#### 18` is €18, `#### 5 km` is 5 km.
    """
    stated = answers.behind_hashes(response) if MARK in half_width(response) else None
    if stated is None:
        return False
    amount = gold_of(gold)
    return answers.equivalent(stated, gold, "exactMatch") or (
        amount is not None and answers.equivalent(introduced_number(stated) or stated, amount, "exactMatch")
    )


def check_gold(ground_truth: object) -> str | None:
    """What is wrong with a right answer of a training's row; None: nothing."""
    if gold_of(ground_truth) is not None:
        return None
    return f"the right answer {str(ground_truth)[-80:]!r} is not a number, and reward=gsm8k compares numbers"


def _item(row: Mapping[str, Any], number: int) -> Item:
    """A problem; its id is that of the row, or a digest of the question."""
    try:
        problem = Problem.read(row)
    except ValueError as error:
        raise ValueError(f"row {number}: {error}") from None
    return Item(str(row.get("id") or digest(problem.question)), problem.prompt()[0]["content"], problem.gold)


def _digits(value: Fraction) -> str:
    """As a decimal where it has an end, which verl's own scorer and the exam's judge read; else as a ratio."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
