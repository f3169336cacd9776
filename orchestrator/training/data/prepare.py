"""Make training data: GSM8K, or rows of your own, as the Parquet files that verl's SFT and PPO read.

Tasks: gsm8k (both, and an exam of its test split, into a folder), sft (conversations, into a file), rl (questions and
answers, into a file).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, PositiveInt

from jobs.tasks import gsm8k
from jobs.tasks.gsm8k import Problem
from orchestrator import secrets
from orchestrator.console import say
from orchestrator.data.source import FORMATS, read_rows
from orchestrator.errors import Parser, SpecError, run_command
from orchestrator.files import write_atomic
from orchestrator.ray_cluster.find import find_path, inside_job, run_root
from orchestrator.records.log import digest
from orchestrator.spec import SpecModel, load_spec, to_yaml
from orchestrator.training.data.cells import UnfitError, field
from orchestrator.training.data.convert import convert_ppo, convert_sft
from orchestrator.training.data.formats import Question, Shape
from orchestrator.training.data.sieve import Dropped, Report, some

UNFIT = "no problem of GSM8K"  # the reason of rows that are left out


class PrepareSpec(SpecModel):
    """What all tasks take. Lengths are in tokens of `tokenizer`, a model's folder or its name on the hub."""

    out: str = Field(min_length=1)
    tokenizer: str | None = None


class Gsm8kSpec(PrepareSpec):
    source: str = f"{gsm8k.NAME}:main"  # or a folder with train.* and test.* of the same rows
    max_length: PositiveInt | None = None
    max_prompt_length: PositiveInt | None = None


class SftSpec(PrepareSpec):
    source: str
    split: str = "train"
    max_length: PositiveInt | None = None


class RlSpec(PrepareSpec):
    source: str
    split: str = "train"
    max_prompt_length: PositiveInt | None = None
    data_source: str | None = None  # verl picks its own rewards by this name
    question_key: str | None = None
    answer_key: str | None = None


TASKS: dict[str, type[PrepareSpec]] = {"gsm8k": Gsm8kSpec, "sft": SftSpec, "rl": RlSpec}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.prepare", description=__doc__)
    parser.add_argument("task", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--config", type=Path, metavar="FILE", help="a spec with the keys below")
    parser.add_argument("--dry-run", action="store_true", help="show what would be read and written, and do nothing")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="out=, source=, tokenizer=, max_length=, …")
    args = parser.parse_intermixed_args(argv)
    if args.task not in TASKS:
        raise SpecError(f"there is no task {args.task!r}. Expected one of {', '.join(TASKS)}")
    spec = load_spec(TASKS[args.task], args.config, args.overrides)
    steps = plan(spec)
    if args.dry_run:
        print(to_yaml(spec).rstrip(), "---", *(f"{source} → {out}" for source, out, _ in steps), sep="\n")
        for source, _, convert in steps:
            if Path(source).expanduser().is_file():
                print(convert(None).sentence())
        return 0
    secrets.load_into_environment()
    for _, out, convert in steps:
        say(f"{out}: {convert(out).sentence()}")
    return 0


# What is read, what is written, and the call that does it, or checks the first rows where it gets no file to write.
Step = tuple[str, Path, Callable[[Path | None], Report]]


def plan(spec: PrepareSpec) -> list[Step]:
    """The files that this spec makes. Raises SpecError where the paths cannot be right."""
    lengths = {"tokenizer_path": find_path(spec.tokenizer) if spec.tokenizer else None}
    if isinstance(spec, Gsm8kSpec):
        return [step for split in ("train", "test") for step in _gsm8k(spec, split, lengths)] + [_gsm8k_exam(spec)]
    out = _place(spec.out)
    if out.suffix != ".parquet":
        raise SpecError(f"out={spec.out} is no Parquet file. Expected a name like data/train.parquet")
    if isinstance(spec, SftSpec):
        source = find_path(spec.source)
        options: dict[str, Any] = lengths | {"split": spec.split, "max_length": spec.max_length}
        return [(source, out, lambda to: convert_sft(source, to, **options))]
    assert isinstance(spec, RlSpec)
    source = find_path(spec.source)
    options = lengths | spec.model_dump(exclude={"out", "source", "tokenizer"})
    return [(source, out, lambda to: convert_ppo(source, to, **options))]


def _gsm8k(spec: Gsm8kSpec, split: str, lengths: dict[str, Any]) -> list[Step]:
    source = _split_of(find_path(spec.source), split)
    sft, rl = (_place(spec.out) / kind / f"{split}.parquet" for kind in ("sft", "rl"))
    sft_options = lengths | {"split": split, "max_length": spec.max_length, "shape_of": gsm8k_conversations}
    rl_options = lengths | {"split": split, "max_prompt_length": spec.max_prompt_length, "data_source": gsm8k.NAME}
    return [
        (source, sft, lambda to: convert_sft(source, to, **sft_options)),
        (source, rl, lambda to: convert_ppo(source, to, **rl_options, shape_of=gsm8k_questions)),
    ]


def _gsm8k_exam(spec: Gsm8kSpec) -> Step:
    """The test split in the exams' row schema, asked in the words of the training."""
    source, out = _split_of(find_path(spec.source), "test"), _place(spec.out) / "exam.jsonl"

    def write(to: Path | None) -> Report:
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
        return Report(source=source, format="exam", rows=len(rows) + len(dropped), kept=len(rows), dropped=drop)

    return source, out, write


def gsm8k_conversations(columns: Sequence[str]) -> Shape:
    """Rows of GSM8K as conversations, the answer word for word."""
    return _gsm8k_shape(columns, Problem.conversation)


def gsm8k_questions(columns: Sequence[str]) -> Shape:
    """Rows of GSM8K for PPO: the number after the mark is what an answer is compared with."""

    def question(problem: Problem) -> Question:
        extra = {"question": problem.question, "answer": problem.answer}
        return Question(problem.prompt(), problem.gold, "math", extra)

    return _gsm8k_shape(columns, question)


def _gsm8k_shape(columns: Sequence[str], made: Callable[[Problem], Any]) -> Shape:
    if not {"question", "answer"} <= set(columns):
        raise SpecError(
            f"these are no rows of GSM8K: they have the columns {some(columns)}. Expected the texts question, answer"
        )

    def read(row: Mapping[str, Any]) -> Any:
        for column in ("question", "answer"):
            field(row, column)
        try:
            return made(Problem.read(row))
        except ValueError as error:
            raise UnfitError(UNFIT, str(error)) from None

    return Shape("GSM8K", frozenset({"question", "answer"}), read)


def _split_of(source: str, split: str) -> str:
    """A split's file in a local folder; a data set of the hub has splits itself."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return source
    files = sorted(path for path in folder.glob(f"{split}*") if path.suffix.lower() in FORMATS)
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise SpecError(f"{folder} should hold one file {split}*.jsonl or {split}*.parquet, found {found}")
    return str(files[0])


def _place(out: str) -> Path:
    """A relative path is meant from where the cluster was started: a job's own folder is deleted after it."""
    path = Path(out).expanduser()
    return run_root().parent / path if inside_job() and not path.is_absolute() else path


if __name__ == "__main__":
    run_command(main)
