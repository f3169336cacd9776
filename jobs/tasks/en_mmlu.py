"""MMLU: 57 subjects, 14,042 questions with four options."""

from collections.abc import Mapping
from typing import Any

from jobs.tasks import choice_rows, mmlu_subjects
from jobs.tasks.multiple_choice import SUBJECT_COLUMNS, MultipleChoice


class EnMmlu(MultipleChoice):
    """The right option's number is in `answer`."""

    name = "en_mmlu"
    dataset = "lighteval/mmlu"
    configs = known_categories = mmlu_subjects.SUBJECTS
    columns = ("id", *SUBJECT_COLUMNS, "question", "choices", "answer")
    groups = mmlu_subjects.GROUPS

    def choice(self, row: Mapping[str, Any], where: str, identity: str, number: int) -> choice_rows.Choice:
        return choice_rows.listed(row, where)


TASK = EnMmlu()
