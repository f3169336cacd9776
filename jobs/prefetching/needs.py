"""Lists what each job reads from the hub, by its spec."""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf
from yaml import YAMLError

from jobs.benchmarking.parts.models import PRESETS
from jobs.benchmarking.spec import BenchSpec
from jobs.exam.spec import ExamSpec
from jobs.tasks.preparing import TASKS
from jobs.tasks.registry import find_task
from orchestrator.data.source import FORMATS, HUB_FILE
from orchestrator.errors import Parser, SpecError
from orchestrator.pipelines.plan import PipelineSpec, plan
from orchestrator.ray_cluster.find import local_path, run_root
from orchestrator.spec import load_spec
from orchestrator.training.spec import PpoSpec, SftSpec, TrainingSpec
from orchestrator.training.supervision.run import HUB_NAME

PPO_ONLY = PpoSpec.model_fields.keys() - SftSpec.model_fields.keys()


@dataclass(frozen=True)
class Need:
    """Something of the hub, or a path, that a job reads."""

    kind: Literal["model", "tokenizer", "data"]
    name: str
    split: str = ""  # of data
    columns: tuple[str, ...] | None = None  # of data; None: all
    configs: tuple[str, ...] = ()  # of data

    @property
    def is_local(self) -> bool:
        if self.name.startswith(HUB_FILE):
            return False
        path = local_path(self.name)
        is_file = self.kind == "data" and path.suffix.lower() in FORMATS
        return path.exists() or is_file or not HUB_NAME.fullmatch(self.name)

    def __str__(self) -> str:
        return f"{self.kind:<9} {self.name}" + (f", {self.split}" if self.split and not self.is_local else "")


def add_spec(parser: ArgumentParser) -> None:
    """How every job is given its spec."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="the spec whose models and data are needed")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the spec to change")


def job_of(config: Path | None, overrides: Sequence[str]) -> str:
    """The job whose spec has such keys. What is wrong with the file is said where it is read for that job."""
    keys = {text.partition("=")[0].partition(".")[0] for text in overrides}
    with suppress(OSError, ValueError, YAMLError):
        keys |= {str(key) for key in OmegaConf.load(config)} if config else set()
    if "steps" in keys:
        return "pipeline"
    if "parts" in keys:
        return "bench"
    if "train" in keys:
        return "ppo" if keys & PPO_ONLY else "sft"
    return "evaluate"


# --- what each job needs ---


def _exam(config: Path | None, overrides: Sequence[str]) -> Iterator[Need]:
    """The models that this spec would deploy here, and the questions."""
    spec = load_spec(ExamSpec, config, overrides)
    if spec.provider == "vllm":
        yield Need("model", spec.model)
    if spec.judge and spec.judge_provider == "vllm" and not spec.judge_base_url:
        yield Need("model", spec.judge)
    if spec.dataset:  # a task of one's own may have no default
        task = find_task(spec.task)
        yield Need("data", spec.dataset, spec.split, task.columns, task.configs)


def _sft(config: Path | None, overrides: Sequence[str]) -> Iterator[Need]:
    yield from _training(load_spec(SftSpec, config, overrides))


def _ppo(config: Path | None, overrides: Sequence[str]) -> Iterator[Need]:
    """The judge of its rewards is a server that runs already."""
    spec = load_spec(PpoSpec, config, overrides)
    if spec.algorithm == "ppo" and spec.critic.model:
        yield Need("model", spec.critic.model)
    yield from _training(spec)


def _training(spec: TrainingSpec) -> Iterator[Need]:
    yield Need("model", spec.model)
    yield Need("data", spec.train, spec.train_split)
    if spec.val:
        yield Need("data", spec.val, spec.val_split)


def _bench(config: Path | None, overrides: Sequence[str]) -> Iterator[Need]:
    """A preset is a shape that is made on the cluster."""
    spec = load_spec(BenchSpec, config, overrides)
    for part, model in (("train", spec.train.model), ("serve", spec.serve.model)):
        if part in spec.parts and model and model not in PRESETS:
            yield Need("model", model)
    if "train" in spec.parts and spec.train.data:
        yield Need("data", spec.train.data, SftSpec.model_fields["train_split"].default)


def _prepare(config: Path | None, overrides: Sequence[str]) -> Iterator[Need]:
    task, *rest = overrides or [""]
    if task not in TASKS:
        raise SpecError(f"there is no task {task!r} of jobs.prepare. Expected first one of {', '.join(TASKS)}")
    spec = load_spec(TASKS[task], config, rest)
    if spec.tokenizer:
        yield Need("tokenizer", spec.tokenizer)
    yield from (Need("data", spec.source, split) for split in spec.splits())


def _pipeline(config: Path | None, overrides: Sequence[str]) -> Iterator[Need]:
    """What all steps need and none of them makes."""
    from orchestrator.ray_cluster.jobs_api import check_job  # Ray, seconds

    spec = load_spec(PipelineSpec, config, overrides)
    folder = run_root() / spec.run
    for step in plan(spec, folder):
        check_job(step.job)
        if step.job not in JOBS:
            continue
        parser = Parser(prog=f"step {step.name}", add_help=False)
        add_spec(parser)
        args, _ = parser.parse_known_intermixed_args(step.arguments)
        try:
            needs = list(JOBS[step.job](args.config, args.overrides))
        except SpecError as error:
            raise SpecError(f"step {step.name}: {error}") from None
        yield from (need for need in needs if not Path(need.name).is_relative_to(folder))


JOBS: dict[str, Callable[[Path | None, Sequence[str]], Iterator[Need]]] = {
    "evaluate": _exam,
    "predict": _exam,
    "judge": _exam,
    "sft": _sft,
    "ppo": _ppo,
    "prepare": _prepare,
    "bench": _bench,
    "pipeline": _pipeline,
}
