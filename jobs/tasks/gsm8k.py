"""GSM8K: grade school word problems whose answer is one number, which stands behind the last `####`.

One reading for all: the exam's rule judge, the reward of a training and the preparation of its rows read an answer with
`answers.read_answer` and compare it with `answers.equivalent`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.tasks import answers

NAME = "openai/gsm8k"
MARK = "####"
INSTRUCTION = 'Reason step by step, then write the final answer after "####".'

Turn = dict[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """A row: the question, the worked answer word for word, and the number that it comes to, in plain digits."""

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
            raise ValueError(f"its answer ends in {last!r}, which is no single number behind {MARK}")
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
    """The number that a right answer comes to, as digits: of `72`, `$1,234`, `72.0` or GSM8K's `… #### 72`; None where
    there is no single number."""
    stated = str(text)
    if MARK in stated:
        stated = stated[stated.rindex(MARK) :]
    return _plain(stated.removeprefix(MARK))


def reward(data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None) -> float:
    """1 where the answer that the solution states is the right number, by the exam's own reading; else 0.

    A right answer that is no number equals nothing; `jobs.ppo` drops such rows before the training.
    """
    stated, _ = answers.read_answer(solution_str)
    gold = gold_of(ground_truth)
    return float(stated is not None and gold is not None and answers.equivalent(stated, gold, "exactMatch"))


def check_gold(ground_truth: object) -> str | None:
    """What is wrong with a right answer of a training's row; None: nothing."""
    if gold_of(ground_truth) is not None:
        return None
    return f"the right answer {str(ground_truth)[-80:]!r} is no number, which reward=gsm8k compares"


def _plain(text: str) -> str | None:
    value = answers._number(answers.normalise(text.strip().lstrip("$")))
    return None if value is None else str(int(value)) if value == int(value) else str(value)
