"""MATH-500: 500 competition problems, whose reference stands in the last box of a worked solution."""

from collections.abc import Mapping
from typing import Any

from jobs.tasks.answers import boxed
from jobs.tasks.math_task import MathTask
from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.rows import text_of


class EnMath500(MathTask):
    """The column `answer` holds the same references, and is not needed."""

    name = "en_math_500"
    dataset = "HuggingFaceH4/MATH-500"
    columns = ("unique_id", "id", "problem", "solution", "subject")
    id_columns = ("unique_id", "id")
    category_column = "subject"
    prompt = load_prompt("en_math.txt")[0]

    def gold(self, row: Mapping[str, Any], where: str) -> str:
        found = boxed(text_of(row, "solution", where))
        if found is None:
            raise ValueError(rf"{where}: solution has no \boxed{{…}}, which holds the reference")
        return found


TASK = EnMath500()
