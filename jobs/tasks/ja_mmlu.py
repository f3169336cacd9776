"""JMMLU: 53 subjects of MMLU in Japanese, two of them written for Japan; 7,097 questions with four options."""

from collections.abc import Mapping
from typing import Any

from jobs.tasks import choice_rows, mmlu_subjects
from jobs.tasks.multiple_choice import PROMPTS, MultipleChoice


class JaMmlu(MultipleChoice):
    """The hub holds one archive of CSV files; those of the publishers' own repository have no header."""

    name = "ja_mmlu"
    dataset = "hf://datasets/nlp-waseda/JMMLU/JMMLU.zip"
    configs = known_categories = mmlu_subjects.JAPANESE_SUBJECTS
    header = ("question", "A", "B", "C", "D", "answer")
    columns = ("id", "subject", *header)
    language = "ja"
    prompt = PROMPTS["ja"]
    groups = mmlu_subjects.JAPANESE_GROUPS
    outside = mmlu_subjects.JAPANESE_ONLY

    def choice(self, row: Mapping[str, Any], where: str, identity: str, number: int) -> choice_rows.Choice:
        return choice_rows.lettered(row, where)


TASK = JaMmlu()
