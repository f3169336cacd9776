"""Fetch what a spec needs of the hub, models and data, where there is internet, for compute nodes without it."""

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf
from yaml import YAMLError

from jobs import prepare
from jobs.benchmarking.parts.models import PRESETS
from jobs.benchmarking.spec import BenchSpec
from jobs.exam.spec import ExamSpec
from jobs.tasks.registry import find_task
from orchestrator import secrets
from orchestrator.console import say
from orchestrator.data.source import FORMATS, read_rows
from orchestrator.errors import Parser, SpecError, run_command
from orchestrator.pipelines.plan import PipelineSpec, plan
from orchestrator.ray_cluster.find import find_path, run_root
from orchestrator.spec import first_line, load_spec
from orchestrator.training.spec import PpoSpec, SftSpec, TrainingSpec
from orchestrator.training.supervision.run import HUB_NAME

TOKENIZER = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "tokenizer*"]
WEIGHTS = ["*.safetensors"]  # not twice, as *.bin
PPO_ONLY = PpoSpec.model_fields.keys() - SftSpec.model_fields.keys()


@dataclass(frozen=True)
class Need:
    """Something of the hub, or a path, that a job reads."""

    kind: Literal["model", "tokenizer", "data"]
    name: str
    split: str = ""  # of data
    columns: tuple[str, ...] | None = None  # of data; None: all

    @property
    def is_local(self) -> bool:
        path = Path(find_path(self.name)).expanduser()
        is_file = self.kind == "data" and path.suffix.lower() in FORMATS
        return path.exists() or is_file or not HUB_NAME.fullmatch(self.name)

    def __str__(self) -> str:
        return f"{self.kind:<9} {self.name}" + (f", {self.split}" if self.split and not self.is_local else "")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.prefetch", description=__doc__)
    parser.add_argument(
        "--job", metavar="JOB", help=f"what the spec is for: {', '.join(JOBS)}; default: as its keys say"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be fetched, and do nothing")
    _add_spec(parser)
    args = parser.parse_intermixed_args(argv)
    job = args.job or _job_of(args.config, args.overrides)
    if job not in JOBS:
        raise SpecError(f"--job {job} is none that reads from the hub. Expected one of {', '.join(JOBS)}")
    secrets.load_into_environment()
    for need in dict.fromkeys(JOBS[job](args.config, args.overrides)):
        print(f"{need}: {'on the hub' if args.dry_run and not need.is_local else _fetch(need)}", flush=True)
    if not args.dry_run:
        say("The jobs find it without internet: set HF_HUB_OFFLINE=1 there, and the same HF_HOME as here")
    return 0


def _add_spec(parser: ArgumentParser) -> None:
    """How every job is given its spec."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="the spec whose models and data are wanted")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the spec to change")


def _job_of(config: Path | None, overrides: Sequence[str]) -> str:
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
        yield Need("data", spec.dataset, spec.split, find_task(spec.task).columns)


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
    if task not in prepare.TASKS:
        raise SpecError(f"there is no task {task!r} of jobs.prepare. Expected first one of {', '.join(prepare.TASKS)}")
    spec = load_spec(prepare.TASKS[task], config, rest)
    if spec.tokenizer:
        yield Need("tokenizer", spec.tokenizer)
    if isinstance(spec, prepare.Gsm8kSpec):
        yield from (Need("data", spec.source, split) for split in ("train", "test"))
    elif isinstance(spec, prepare.SftSpec | prepare.RlSpec):
        yield Need("data", spec.source, spec.split)


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
        _add_spec(parser)
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


# --- the hub ---


def _fetch(need: Need) -> str:
    """Bring it into the local cache; where it is, or how much. Raises SpecError."""
    if need.is_local:
        path = Path(find_path(need.name)).expanduser()
        return "here already" if path.exists() else f"no name on the hub, and not here yet (looked from {Path.cwd()})"
    if need.kind == "data":
        return f"{sum(1 for _ in read_rows(need.name, split=need.split, columns=need.columns))} rows"
    return _fetch_model(need.name, TOKENIZER + (WEIGHTS if need.kind == "model" else []))


def _fetch_model(name: str, patterns: list[str]) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, allow_patterns=patterns, token=secrets.find("HF_TOKEN"))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SpecError(
            f"cannot fetch the model {name}: {first_line(error)}. Check its name, HF_TOKEN and the network"
        ) from None


if __name__ == "__main__":
    run_command(main)
