"""LiveCodeBench, releases 5 and 6: problems of programming contests, solved by a program or by a function.

The data set of its authors is a script, which `datasets` runs no longer; the default is a copy in Parquet files with
the same columns. Our verdict and `codegen_pass`, the original's name, are one figure: what the original's runner gets
wrong (see `livecodebench_tests`) is not worth being kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from jobs.tasks import metrics
from jobs.tasks.answers import without_thinking
from jobs.tasks.code_blocks import fenced_blocks, parsed
from jobs.tasks.code_figures import PassFigures, isolation_score
from jobs.tasks.livecodebench_tests import Report, grade, unpack
from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.rows import require, text_of
from jobs.tasks.sandbox import SandboxFailed
from jobs.tasks.task import Item, Task, Verdict

ORIGINAL = "codegen_pass"
PACKED = ("public_test_cases", "private_test_cases")


class LiveCodeBench(Task):
    """342 problems, ten samples each; an answer is right where it passes all tests."""

    name = "en_livecodebench_v5_v6"
    dataset = "lighteval/code_generation_lite:v5_v6"
    samples = 10
    columns = ("question_id", "question_content", "starter_code", *PACKED, "metadata", "difficulty")
    prompts = (load_prompt("livecodebench_stdin.txt")[0], load_prompt("livecodebench_call.txt")[0])

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        return [self._item(row, f"row {number}") for number, row in enumerate(rows, start=1)]

    def _item(self, row: Mapping[str, Any], where: str) -> Item:
        """The tests stay packed: unpacked they are many times as large."""
        identity = text_of(row, "question_id", where, numbers=(int,))
        where += f" (question_id {identity!r})"
        question = text_of(row, "question_content", where)
        require(row, "starter_code", where)
        starter = row["starter_code"] or ""
        more = {name: text_of(row, name, where) for name in PACKED} | {"function": _function(row, where)}
        for name in PACKED:
            try:
                unpack(more[name])
            except ValueError as error:
                raise ValueError(f"{where}: {name} {error}") from None
        prompt = self.prompts[bool(starter)].replace("{starter_code}", starter)  # before the question, which may say it
        category = str(row.get("difficulty") or "")
        return Item(
            identity, prompt.replace("{question}", question), more["function"], "exactMatch", category, "", more
        )

    def sampling(self, item: Item) -> dict[str, Any]:
        return {"temperature": 0.6, "top_p": 0.95}

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        """Right where the last code block, or else the whole response if it is Python, passes all tests."""
        code = extracted(responses[-1])
        if not code:
            return Verdict("no", None, "the response holds no program", None, {ORIGINAL: 0.0})
        if parsed(code) is None:
            return Verdict("no", code, "the program is not Python", None, {ORIGINAL: 0.0})
        more: Mapping[str, str] = item.metadata or {}
        try:
            tests = [test for name in PACKED for test in unpack(more[name])]
            report = grade(code, tests, more["function"])
        except SandboxFailed as error:
            return Verdict("no", code, f"it could not be run: {error}", None, {ORIGINAL: 0.0})
        right = report.passed == len(tests)
        scores = {ORIGINAL: float(right)} | isolation_score(report.isolation)
        return Verdict("yes" if right else "no", code, _told(report, len(tests)), None, scores)

    def reference_response(self, item: Item) -> None:
        """The data hold no solutions."""

    def figures(self, items: Mapping[str, Item], samples: int, outcomes: Iterable[metrics.Outcome]) -> dict[str, Any]:
        def score(counted: Iterable[metrics.Outcome]) -> dict[str, Any]:
            return super(LiveCodeBench, self).figures(items, samples, counted)

        return PassFigures(ORIGINAL).of(score, items, samples, outcomes)


TASK = LiveCodeBench()


def extracted(response: str) -> str:
    """The last fenced block, or else the whole text where it is Python; "" for none."""
    text = without_thinking(response)
    blocks = fenced_blocks(text)
    code = blocks[-1] if blocks else text if parsed(text) is not None else ""
    return code if code.strip() else ""


def _function(row: Mapping[str, Any], where: str) -> str:
    """The name of the function that tests call; "" where they run a program."""
    try:
        metadata = orjson.loads(row.get("metadata") or "{}")
        name = metadata.get("func_name") or ""
    except (orjson.JSONDecodeError, AttributeError):
        raise ValueError(f"{where}: metadata is not a JSON object") from None
    if not isinstance(name, str):
        raise ValueError(f"{where}: func_name in metadata is a {type(name).__name__}, expected text")
    return name


def _told(report: Report, n_tests: int) -> str:
    if report.passed == n_tests:
        return f"all {n_tests} tests passed"
    return f"test {report.passed + 1} of {n_tests}: {report.end}"
