"""What the exams of mathematics share: one formula is the answer, and math-verify compares it.

Two figures: `extractive_match` is the original's, which takes the last number of a text that states no answer; the
accuracy asks whether the stated answer is right, in any notation.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.tasks import math_answers
from jobs.tasks.equivalence import equivalent
from jobs.tasks.libraries import require_libraries
from jobs.tasks.math_answers import GoldKind
from jobs.tasks.row_ids import RowIds
from jobs.tasks.rows import text_of
from jobs.tasks.task import Item, Task, Verdict


class MathTask(Task):
    """A subclass names its columns and prompt; `gold` reads the reference out of a row."""

    prompt: str  # with {problem}
    problem_column = "problem"
    category_column = ""
    id_columns: Sequence[str] = ("id",)
    gold_kind: GoldKind = "latex"
    whole_numbers = False  # whether 203.9999999 is not 204
    last_line = r"Therefore, the final answer is: $\boxed{ANSWER}$. I hope it is correct."

    def gold(self, row: Mapping[str, Any], where: str) -> str:
        """The reference of a row. Raises ValueError."""
        return text_of(row, "answer", where, numbers=(int, float)).strip()

    def category(self, row: Mapping[str, Any]) -> str:
        return str(row.get(self.category_column) or "")

    def gold_text(self, item: Item) -> str:
        """The text in which math-verify finds the reference."""
        return item.answer if self.gold_kind == "number" else rf"$\boxed{{{item.answer}}}$"

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        require_libraries("math_verify")
        ids = RowIds(self.id_columns)
        return [self._item(row, f"row {number}", ids) for number, row in enumerate(rows, start=1)]

    def _item(self, row: Mapping[str, Any], where: str, ids: RowIds) -> Item:
        problem = text_of(row, self.problem_column, where)
        return Item(
            id=ids.of(row, problem),
            question=self.prompt.replace("{problem}", problem),
            answer=self.gold(row, where),
            category=self.category(row),
        )

    def reference_response(self, item: Item) -> str:
        return self.last_line.replace("ANSWER", item.answer)

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """Right where the stated answer equals the reference by notation or by computer algebra."""
        response = responses[-1]
        match, failure = math_answers.agree(self.gold_text(item), self.gold_kind, response)
        scores = {"extractive_match": float(match)}
        stated = math_answers.stated_answer(response)
        if stated is None:
            return Verdict("no", None, failure or "the response states no final answer", None, scores)
        right, reason = self._compare(stated, item)
        return Verdict("yes" if right else "no", stated, reason, None, scores)

    def _compare(self, stated: str, item: Item) -> tuple[bool, str]:
        """Whether a stated answer is the reference, and why."""
        if not self.whole_numbers and equivalent(stated, item.answer, "exactMatch"):
            return True, "equal to the reference after normalising"
        if math_answers.contradict(stated, item.answer):
            return False, "not equal to the reference"
        digits = math_answers.DIGITS_OF_WHOLE_NUMBERS if self.whole_numbers else math_answers.DIGITS
        framed = math_answers.framed(stated)
        right, failure = math_answers.agree(self.gold_text(item), self.gold_kind, framed, digits)
        return right, "equal to the reference by computer algebra" if right else failure or "not equal to the reference"
