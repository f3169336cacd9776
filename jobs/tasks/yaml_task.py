"""A task without code: a YAML file beside its rows, judged by the stated final answer or by a model.

# capitals.yaml, beside capitals.jsonl with lines like {"country": "France", "capital": "Paris"}
prompt: "What is the capital of {country}? End with a line `Answer: <city>`."
answer: capital
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt

from jobs.tasks.prompt_files import load_prompt
from jobs.tasks.rows import require, text_of
from jobs.tasks.stated_answer import rule_verdict
from jobs.tasks.task import Item, Task, Verdict
from jobs.tasks.yes_no_judge import YesNoJudge
from orchestrator.data.source import FORMATS
from orchestrator.errors import SpecError
from orchestrator.spec import SpecModel, load_spec

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class YamlTaskSpec(SpecModel):
    """All keys of such a file. Paths are relative to it."""

    dataset: str = ""  # a file or a name on the hub; default: a file of the same name with the ending of a data set
    split: str = "test"
    prompt: str = "{question}"  # columns in braces
    system_prompt: str = ""
    answer: str = "answer"  # the column of the right answer
    id: str = "id"  # of the id; rows without it are numbered
    category: str = "category"  # and of the subject; rows without it have none
    multiple_choice: bool = False  # the right answer is an option's letter
    judge_prompt: str = ""  # a file, with {question} {response} {correct_answer}; needed only where a model judges
    samples: PositiveInt = 1


class YamlTask(Task):
    """What `read_task` makes of a file."""

    def __init__(self, name: str, spec: YamlTaskSpec) -> None:
        self.name, self.spec = name, spec
        self.dataset, self.split, self.samples = spec.dataset, spec.split, spec.samples
        self.system_prompt = spec.system_prompt
        self.judge = YesNoJudge(load_prompt(spec.judge_prompt)[0] if spec.judge_prompt else "")

    def items(self, rows: Iterable[Mapping[str, Any]]) -> list[Item]:
        return [self._item(row, number) for number, row in enumerate(rows, start=1)]

    def score(self, item: Item, responses: Sequence[str]) -> Verdict:
        return rule_verdict(item, responses[-1])

    def _item(self, row: Mapping[str, Any], number: int) -> Item:
        where, spec = f"row {number}", self.spec
        for column in _PLACEHOLDER.findall(spec.prompt):
            require(row, column, where)
        kind: Literal["multipleChoice", "exactMatch"] = "multipleChoice" if spec.multiple_choice else "exactMatch"
        return Item(
            text_of(row, spec.id, where, numbers=(int,)) if spec.id in row else str(number),
            _PLACEHOLDER.sub(lambda found: str(row[found[1]]), spec.prompt),
            text_of(row, spec.answer, where, numbers=(int, float)),
            kind,
            text_of(row, spec.category, where) if row.get(spec.category) else "",
        )


def read_task(path: Path) -> YamlTask:
    """The task of a YAML file. Raises SpecError."""
    spec = load_spec(YamlTaskSpec, path, [])
    here = path.parent
    beside = [file for ending in FORMATS if (file := path.with_suffix(ending)).is_file()]
    if not spec.dataset and not beside:
        raise SpecError(f"{path} names no dataset, and there is no {path.stem}.jsonl beside it")
    dataset = str(beside[0]) if not spec.dataset else _beside(here, spec.dataset)
    judge_prompt = spec.judge_prompt and _beside(here, spec.judge_prompt)
    try:
        return YamlTask(path.stem, spec.model_copy(update={"dataset": dataset, "judge_prompt": judge_prompt}))
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None


def _beside(folder: Path, name: str) -> str:
    """A file beside the task's, else the name as it is: a data set of the hub, or a path."""
    return str(folder / name) if (folder / name).exists() else name
