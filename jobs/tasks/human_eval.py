"""HumanEval and what descends from it: a function is completed, and the item's unit tests call it.

Two figures: `humaneval_pass` says what the original says, whose prelude of star imports lets an empty answer pass where
a standard function has the right name (HumanEval/47 `median`, /53 `add`). Our verdict wants the answer to define the
function itself, and provides the names of `typing` alone. The original also disables some functions of `os` and
`shutil` in the submission's process; the sandbox here needs no such thing, so that both figures run without it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jobs.tasks import metrics
from jobs.tasks.answers import without_thinking
from jobs.tasks.code_blocks import (
    STAR_PRELUDE,
    TYPING_PRELUDE,
    defines,
    last_block,
    parsed,
    star_names,
    uses_star_names,
)
from jobs.tasks.code_figures import PassFigures, isolation_score
from jobs.tasks.rows import text_of
from jobs.tasks.sandbox import SandboxFailed
from jobs.tasks.task import Item, Task, Verdict
from jobs.tasks.unit_tests import Grade, grade

ORIGINAL = "humaneval_pass"
SAID = {"died": "its process ended before the tests did", "timeout": "the tests did not end in time"}


class HumanEval(Task):
    """164 functions, ten samples each; subclasses say which and in what words."""

    samples = 10
    columns = ("task_id", "prompt", "entry_point", "test", "canonical_solution")
    prompt: str  # with {code} where the beginning of the function goes
    seconds = 6.0  # for all asserts of an item together, as in the original

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        return [self._item(row, f"row {number}") for number, row in enumerate(rows, start=1)]

    def _item(self, row: Mapping[str, Any], where: str) -> Item:
        identity = text_of(row, "task_id", where)
        where += f" (task_id {identity!r})"
        code, entry_point, test = (text_of(row, name, where) for name in ("prompt", "entry_point", "test"))
        if not entry_point.isidentifier():
            raise ValueError(f"{where}: entry_point is {entry_point!r}, expected a function's name")
        answer = text_of(row, "canonical_solution", where) if row.get("canonical_solution") else entry_point
        more = {"code": code, "entry_point": entry_point, "test": test}
        return Item(identity, self.prompt.replace("{code}", code), answer, metadata=more)

    def sampling(self, item: Item) -> dict[str, Any]:
        return {"temperature": 0.2, "top_p": 0.95}

    def reference_response(self, item: Item) -> str:
        """The canonical solution. JHumanEval/64 has no line break between a text and its `def`."""
        more: Mapping[str, str] = item.metadata or {}
        code = more["code"].replace(f'"""def {more["entry_point"]}(', f'"""\ndef {more["entry_point"]}(')
        return f"```python\n{code}{item.answer}\n```"

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """Right where the last block that defines the function passes the item's tests."""
        more: Mapping[str, str] = item.metadata or {}
        entry_point = more["entry_point"]
        code = last_block(without_thinking(responses[-1]), entry_point)
        try:
            right, told = self._right(code, more)
            original = self._original(last_block(responses[-1], entry_point), more, code, right)
        except SandboxFailed as error:
            return Verdict("no", code or None, f"it could not be run: {error}", None, {ORIGINAL: 0.0})
        isolation = right.isolation or original.isolation
        scores = {ORIGINAL: float(original.end == "passed")} | isolation_score(isolation)
        return Verdict("yes" if right.end == "passed" else "no", code or None, told, None, scores)

    def _right(self, code: str, more: Mapping[str, str]) -> tuple[Grade, str]:
        """Its grade, and the verdict's reason."""
        if not code.strip():
            return Grade("failed"), "the response holds no code block"
        tree = parsed(code)
        if tree is None:
            return Grade("failed"), "the code is not Python"
        if not defines(tree, more["entry_point"]):
            return Grade("failed"), f"the code does not define {more['entry_point']}"
        found = self._grade(code, more, TYPING_PRELUDE)
        told = SAID.get(found.end) or (f"a test failed: {found.told}" if found.end == "failed" else "the tests passed")
        return found, told

    def _original(self, code: str, more: Mapping[str, str], ours: str, right: Grade) -> Grade:
        """As the original grades it; run again only where the star imports can make a difference."""
        tree = parsed(code)
        if tree is None or (code == ours and right.end in ("passed", "timeout")):
            return right if code == ours else Grade("failed")
        if code == ours and right.isolation and not uses_star_names(tree):
            return right
        if not code.strip() and more["entry_point"] not in star_names():
            return Grade("failed")
        return self._grade(code, more, STAR_PRELUDE)

    def _grade(self, code: str, more: Mapping[str, str], prelude: str) -> Grade:
        return grade(code, more["test"], more["entry_point"], self.seconds, prelude)

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        def score(counted: Iterable[metrics.Outcome]) -> dict[str, Any]:
            return super(HumanEval, self).figures(items, samples, counted)

        return PassFigures(ORIGINAL).of(score, items, samples, outcomes)
