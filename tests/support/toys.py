"""Tasks as their authors write them: one file each."""

TOY = '''
"""Words backwards."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.tasks.task import Item, Task, Verdict


def backwards(word: str) -> str:
    return word[::-1]


class Backwards(Task):
    name = "backwards"
    system_prompt = "Say one word."

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        return [Item(row["word"], f"Backwards, say: {row['says']}", backwards(row["word"])) for row in rows]

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        said = responses[-1].partition("Answer: ")[2].split()[:1]
        right = said == [backwards(item.id)]
        return Verdict("yes" if right else "no", "".join(said), "", None, {"letters": float(len("".join(said)))})

    def sampling(self, item: Item) -> dict[str, Any]:
        return {"temperature": 0.25} if item.id == "abc" else {}


TASK = Backwards()
'''

ROWS = '{"word": "abc", "says": "cba"}\n{"word": "xyz", "says": "xyz"}\n'
