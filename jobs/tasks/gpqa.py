"""What the two GPQA tasks share: four columns of options, whose order is not part of the data."""

import hashlib
import random
from collections.abc import Mapping
from typing import Any, Literal

from jobs.tasks.choice_rows import Choice
from jobs.tasks.multiple_choice import MultipleChoice
from jobs.tasks.rows import text_of

WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def place_by_id(identity: str) -> int:
    """The right option's place, 0 to 3, by SHA-256 of the row's id: the same in whatever selection of the rows."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()) % 4


def swallow_places(rows: int) -> list[int]:
    """The places that the Swallow suite draws for the rows of the data in their order, one after the other."""
    drawn = random.Random(1234)
    return [drawn.randint(0, 3) for _ in range(rows)]


class Gpqa(MultipleChoice):
    """Science questions of experts; the wrong options keep their order around the right one."""

    split = "train"
    columns = ("id", "Record ID", "Question", "Correct Answer", *WRONG, "High-level domain")
    subject_columns = ("High-level domain",)
    choice_order: Literal["id", "swallow"] = "id"  # a task of one's own that inherits can take the original's

    def identity(self, row: Mapping[str, Any], where: str) -> str:
        return text_of(row, "Record ID", where) if row.get("Record ID") else super().identity(row, where)

    def choice(self, row: Mapping[str, Any], where: str, identity: str, number: int) -> Choice:
        question, right, *wrong = (
            text_of(row, column, where, numbers=(int, float)).strip()
            for column in ("Question", "Correct Answer", *WRONG)
        )
        place = place_by_id(identity) if self.choice_order == "id" else swallow_places(number)[-1]
        return Choice(question, [*wrong[:place], right, *wrong[place:]], place)
