"""Makes GSM8K's rows: for SFT, for PPO, and its test split as an exam, asked in the words of the training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import PositiveInt

from jobs.tasks import gsm8k
from jobs.tasks.gsm8k import Problem
from orchestrator.data.source import read_rows
from orchestrator.errors import SpecError
from orchestrator.files import write_atomic
from orchestrator.ray_cluster.find import find_path
from orchestrator.records.types import digest
from orchestrator.training.data.cells import UnfitError, field
from orchestrator.training.data.convert import convert_ppo, convert_sft
from orchestrator.training.data.formats import RewardedQuestion, RowFormat
from orchestrator.training.data.prepare import PrepareSpec, PrepareStep, place_of, split_of
from orchestrator.training.data.sieve import DataReport, Dropped, some

UNFIT = "not a problem of GSM8K"  # the reason of rows that are left out


class Gsm8kSpec(PrepareSpec):
    """Both kinds of rows and the exam, into one folder."""

    source: str = f"{gsm8k.NAME}:main"  # or a folder with train.* and test.* of the same rows
    max_length: PositiveInt | None = None
    max_prompt_length: PositiveInt | None = None

    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    def steps(self) -> list[PrepareStep]:
        return [step for split in self.splits() for step in self._rows(split)] + [self._exam()]

    def _rows(self, split: str) -> list[PrepareStep]:
        source = split_of(find_path(self.source), split)
        sft, rl = (place_of(self.out) / kind / f"{split}.parquet" for kind in ("sft", "rl"))
        options = self.lengths() | {"split": split}
        sft_options = options | {"max_length": self.max_length}
        rl_options = options | {"max_prompt_length": self.max_prompt_length, "data_source": gsm8k.NAME}
        return [
            PrepareStep(source, sft, lambda to: convert_sft(source, to, **sft_options, shape_of=gsm8k_conversations)),
            PrepareStep(source, rl, lambda to: convert_ppo(source, to, **rl_options, shape_of=gsm8k_questions)),
        ]

    def _exam(self) -> PrepareStep:
        source = split_of(find_path(self.source), "test")
        return PrepareStep(source, place_of(self.out) / "exam.jsonl", lambda to: convert_exam(source, to))


def convert_exam(source: str, to: Path | None) -> DataReport:
    """Writes the problems in the exams' row schema. Raises SpecError where there is none."""
    problems, dropped = [], []
    for number, row in enumerate(read_rows(source, split="test", columns=None), start=1):
        try:
            problems.append(Problem.read(row))
        except ValueError as error:
            dropped.append((number, str(error)))
    if not problems:
        raise SpecError(f"{source} has no problems of GSM8K" + (f": row 1, {dropped[0][1]}" if dropped else ""))
    rows = [problem.exam_row(digest(problem.question)) for problem in problems]
    if to:
        write_atomic(to, "".join(orjson.dumps(row).decode() + "\n" for row in rows))
    drop = [Dropped(reason=UNFIT, rows=len(dropped), first_row=number, example=why) for number, why in dropped[:1]]
    return DataReport(source=source, format="exam", rows=len(rows) + len(dropped), kept=len(rows), dropped=drop)


def gsm8k_conversations(columns: Sequence[str]) -> RowFormat:
    """Rows of GSM8K as conversations, the answer word for word."""
    return _gsm8k_shape(columns, Problem.conversation)


def gsm8k_questions(columns: Sequence[str]) -> RowFormat:
    """Rows of GSM8K for PPO: the number after the mark is what an answer is compared with."""

    def question(problem: Problem) -> RewardedQuestion:
        extra = {"question": problem.question, "answer": problem.answer}
        return RewardedQuestion(problem.prompt(), problem.gold, "math", extra)

    return _gsm8k_shape(columns, question)


def _gsm8k_shape(columns: Sequence[str], made: Callable[[Problem], Any]) -> RowFormat:
    if not {"question", "answer"} <= set(columns):
        raise SpecError(
            f"these are not rows of GSM8K: they have the columns {some(columns)}. Expected the texts question, answer"
        )

    def read(row: Mapping[str, Any]) -> Any:
        for column in ("question", "answer"):
            field(row, column)
        try:
            return made(Problem.read(row))
        except ValueError as error:
            raise UnfitError(UNFIT, str(error)) from None

    return RowFormat("GSM8K", frozenset({"question", "answer"}), read)
