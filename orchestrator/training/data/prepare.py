"""Makes training data of rows: which files a spec of `jobs.prepare` reads and writes, and the calls that do it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, PositiveInt

from cluster.files import expanded
from orchestrator.data.source import FORMATS
from orchestrator.errors import SpecError
from orchestrator.ray_cluster.find import find_path, inside_job, run_root
from orchestrator.spec import SpecModel, to_yaml
from orchestrator.training.data.convert import convert_ppo, convert_sft
from orchestrator.training.data.sieve import DataReport


class PrepareStep(NamedTuple):
    """What is read, what is written, and the call that does it, or checks the first rows where it gets no file."""

    source: str
    out: Path
    convert: Callable[[Path | None], DataReport]


class PrepareSpec(SpecModel, ABC):
    """What all kinds of rows take. Lengths are in tokens of `tokenizer`, a model's folder or its name on the hub."""

    out: str = Field(min_length=1)
    tokenizer: str | None = None
    source: str

    @abstractmethod
    def steps(self) -> list[PrepareStep]:
        """The files that this spec makes. Raises SpecError where the paths cannot be right."""

    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits of `source` that are read."""

    def lengths(self) -> dict[str, Any]:
        return {"tokenizer_path": find_path(self.tokenizer) if self.tokenizer else None}


class ConversationsSpec(PrepareSpec):
    """Conversations for SFT, into one file."""

    split: str = "train"
    max_length: PositiveInt | None = None

    def splits(self) -> tuple[str, ...]:
        return (self.split,)

    def steps(self) -> list[PrepareStep]:
        source, out = find_path(self.source), _file_of(self.out)
        options = self.lengths() | {"split": self.split, "max_length": self.max_length}
        return [PrepareStep(source, out, lambda to: convert_sft(source, to, **options))]


class QuestionsSpec(PrepareSpec):
    """Questions with their right answers for reinforcement learning, into one file."""

    split: str = "train"
    max_prompt_length: PositiveInt | None = None
    data_source: str | None = None  # verl picks its own rewards by this name
    question_key: str | None = None
    answer_key: str | None = None

    def splits(self) -> tuple[str, ...]:
        return (self.split,)

    def steps(self) -> list[PrepareStep]:
        source, out = find_path(self.source), _file_of(self.out)
        options = self.lengths() | self.model_dump(exclude={"out", "source", "tokenizer"})
        return [PrepareStep(source, out, lambda to: convert_ppo(source, to, **options))]


def describe(spec: PrepareSpec) -> Iterator[str]:
    """Prints the spec, the files, and the result of the first rows of local ones."""
    steps = spec.steps()
    yield to_yaml(spec).rstrip()
    yield "---"
    yield from (f"{step.source} → {step.out}" for step in steps)
    yield from (step.convert(None).sentence() for step in steps if expanded(step.source).is_file())


def split_of(source: str, split: str) -> str:
    """A split's file in a local folder; a data set of the hub has splits itself."""
    folder = expanded(source)
    if not folder.is_dir():
        return source
    files = sorted(path for path in folder.glob(f"{split}*") if path.suffix.lower() in FORMATS)
    if len(files) != 1:
        found = ", ".join(path.name for path in files) or "none"
        raise SpecError(f"{folder} should hold one file {split}*.jsonl or {split}*.parquet, found {found}")
    return str(files[0])


def place_of(out: str) -> Path:
    """A relative path is meant from where the cluster was started: a job's own folder is deleted after it."""
    path = expanded(out)
    return run_root().parent / path if inside_job() and not path.is_absolute() else path


def _file_of(out: str) -> Path:
    path = place_of(out)
    if path.suffix != ".parquet":
        raise SpecError(f"out={out} is not a Parquet file. Expected a name like data/train.parquet")
    return path
