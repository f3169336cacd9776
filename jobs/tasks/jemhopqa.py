"""What the two JEMHopQA exams share: questions over two facts, whose answer is YES, NO or a short text.

The accuracy and `char_f1` take the stated answer, and normalise the reference as well. The other scores are the
original's; it reads a whole text that states no answer, and so gives refusals a part of a point.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.tasks import japanese_qa
from jobs.tasks.libraries import require_libraries
from jobs.tasks.row_ids import RowIds
from jobs.tasks.rows import text_of
from jobs.tasks.task import Item, Task, Verdict


class Jemhopqa(Task):
    """The development part, 120 questions; a subclass has the prompt."""

    dataset = "tokyotech-llm/JEMHopQA:v1.2"
    split = "validation"
    columns = ("qid", "id", "type", "question", "answer")
    prompt: str  # with {question}

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        require_libraries("rapidfuzz")
        ids = RowIds(("qid", "id"))
        return [self._item(row, f"row {number}", ids) for number, row in enumerate(rows, start=1)]

    def _item(self, row: Mapping[str, Any], where: str, ids: RowIds) -> Item:
        question = text_of(row, "question", where)
        return Item(
            id=ids.of(row, question),
            question=self.prompt.replace("{question}", question),
            answer=text_of(row, "answer", where, numbers=(int, float)),
            category=str(row.get("type") or ""),
        )

    def reference_response(self, item: Item) -> str:
        return rf"回答: $\boxed{{{item.answer}}}$"

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """Right where the stated answer is the reference in its normal form; `scores` has its parts of a point."""
        response, gold = responses[-1], item.answer
        scores = original_scores(response, gold)
        stated = japanese_qa.stated_answer(response)
        if stated is None:
            return Verdict("no", None, "the response states no final answer", None, scores | {"char_f1": 0.0})
        answer, reference = japanese_qa.normal(stated), japanese_qa.normal(gold)
        scores["char_f1"] = japanese_qa.character_f1(answer, reference)
        if answer == reference:
            return Verdict("yes", stated, "the reference in its normal form", None, scores)
        return Verdict("no", stated, "not the reference", None, scores)


def original_scores(response: str, gold: str) -> dict[str, float]:
    """The original's six figures of an answer, 0 to 1; those named quasi are of the normalised answer."""
    if not response.strip():  # both readings are empty
        raw = quasi = ""
    else:
        raw = japanese_qa.original_answer(response, first_line=False)
        quasi = japanese_qa.original_normal(japanese_qa.original_answer(response, first_line=True))
    return {
        "f1_score": japanese_qa.character_f1(raw, gold),
        "f1_score_quasi": japanese_qa.character_f1(quasi, gold),
        "exact_match": float(raw == gold),
        "quasi_exact_match": float(quasi == gold),
        "llmjpeval_f1_score": japanese_qa.word_order_ratio(raw, gold),
        "llmjpeval_f1_score_quasi": japanese_qa.word_order_ratio(quasi, gold),
    }
