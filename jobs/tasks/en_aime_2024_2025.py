"""AIME 2024 and 2025: 30 problems each, whose answers are whole numbers from 0 to 999."""

from collections.abc import Mapping
from typing import Any

from jobs.tasks.math_task import MathTask
from jobs.tasks.prompt_files import load_prompt


class EnAime(MathTask):
    """The hub holds the years apart; both have the columns `problem` and `answer`."""

    name = "en_aime_2024_2025"
    configs = ("HuggingFaceH4/aime_2024", "yentinglin/aime_2025")  # each a data set of its own
    dataset = configs[0]
    split = "train"
    columns = ("id", "problem", "answer", "year")
    known_categories = ("2024", "2025")
    prompt = load_prompt("en_math.txt")[0]
    gold_kind = "number"
    whole_numbers = True

    def category(self, row: Mapping[str, Any]) -> str:
        """The year, as a row or the name of its data set says; "" where neither does."""
        return str(row.get("year") or str(row.get("config") or "").rpartition("_")[2])

    def gold(self, row: Mapping[str, Any], where: str) -> str:
        """The number without zeros before it."""
        text = super().gold(row, where).removesuffix(".0")
        if not (text.isascii() and text.isdecimal()):
            raise ValueError(f"{where}: answer is {text[:40]!r}, expected a whole number")
        return str(int(text))


TASK = EnAime()
