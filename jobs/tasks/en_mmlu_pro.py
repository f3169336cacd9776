"""MMLU-Pro: 12,032 questions with up to ten options, in 91 subsets."""

from collections.abc import Mapping
from typing import Any

from jobs.tasks import choice_rows
from jobs.tasks.mmlu_pro import MmluPro


class EnMmluPro(MmluPro):
    """The options are one list."""

    name = "en_mmlu_pro"
    dataset = "tokyotech-llm/MMLU-Pro-English"
    columns = ("id", *MmluPro.subject_columns, "question", "options", "answer_index")

    def choice(self, row: Mapping[str, Any], where: str, identity: str, number: int) -> choice_rows.Choice:
        return choice_rows.listed(row, where, "options", "answer_index")


TASK = EnMmluPro()
