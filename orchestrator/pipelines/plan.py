"""A pipeline: jobs that need one another, each a Ray Job with a folder of its own, finished ones done once.

Pure planning and bookkeeping; `jobs.pipeline` submits. What is kept of a step lies beside what it made, in
`<pipeline>/<step>/step.json`, so that nothing of it lives in Ray.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import orjson
from pydantic import Field, model_validator

from orchestrator.errors import COMPLETE, INCOMPLETE, SpecError
from orchestrator.files import write_atomic
from orchestrator.records.types import digest
from orchestrator.spec import SpecModel

State = Literal["waiting", "running", "finished", "failed", "not run"]
HERE = "here"  # {here}: the step's own folder
MODEL = "model"  # {model}: the entry of `models` that the step is for
PLACEHOLDER = re.compile(r"{([A-Za-z0-9_-]+)}")


class StepSpec(SpecModel):
    """One job. In `config` and `arguments`, {here} is the step's own folder, {other} the folder of a step it needs."""

    job: str  # a module of jobs/
    config: str | None = None
    arguments: list[str] = []
    needs: list[str] = []


class PipelineSpec(SpecModel):
    """All keys of `conf/pipelines/*.yaml`."""

    run: str  # the pipeline's folder: a name below the cluster's run root, or an absolute path
    values: dict[str, str | int | float | bool] = {}  # short names for the steps: {name}
    models: list[str] = []  # every step once for each of them, one model after the other: {model}
    steps: dict[str, StepSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, step in self.steps.items():
            _check_step(name, step, self)
        _check_cycles(self.steps)
        return self


def _check_step(name: str, step: StepSpec, spec: PipelineSpec) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in (HERE, MODEL):
        raise ValueError(f"{name!r} is not a valid step name: letters, digits, - and _, and not {HERE} or {MODEL}")
    for needed in step.needs:
        if needed not in spec.steps:
            raise ValueError(f"step {name} needs {needed}, which is not a step. Steps are {', '.join(spec.steps)}")
    known = {HERE, *spec.values, *step.needs} | ({MODEL} if spec.models else set())
    used = {found for text in [*step.arguments, step.config or ""] for found in PLACEHOLDER.findall(text)}
    for unknown in sorted(used - known):
        advice = "add it to its needs" if unknown in spec.steps else f"known are {', '.join(sorted(known))}"
        raise ValueError(f"step {name} uses {{{unknown}}}: {advice}")
    if HERE not in used:
        raise ValueError(f"step {name} writes nowhere of its own: give it run={{{HERE}}} or out={{{HERE}}}/…")


def _check_cycles(steps: Mapping[str, StepSpec]) -> None:
    done: set[str] = set()
    while left := [name for name in steps if name not in done]:
        ready = [name for name in left if done.issuperset(steps[name].needs)]
        if not ready:
            raise ValueError(f"steps {', '.join(left)} need one another in a circle")
        done.update(ready)


@dataclass(frozen=True, slots=True)
class PipelineStep:
    """A step with all its placeholders filled."""

    name: str
    job: str
    model: str | None
    folder: Path
    arguments: tuple[str, ...]  # of `python -m jobs.<job>`
    needs: tuple[str, ...]  # names of other steps of the plan
    fingerprint: str  # of all that decides what the step makes, what it needs included


def plan(spec: PipelineSpec, folder: Path) -> list[PipelineStep]:
    """The steps in the order in which they run: one model after the other, each after what it needs."""
    steps: list[PipelineStep] = []
    models: list[str | None] = [*spec.models] or [None]
    for model in models:
        prefix = f"{slug(model)}/" if model else ""
        fingerprints: dict[str, str] = {}
        for name in _ordered(spec.steps):
            step = _fill(spec, name, model, folder / prefix, prefix, fingerprints)
            fingerprints[name] = step.fingerprint
            steps.append(step)
    names = [step.name for step in steps]
    if double := {name for name in names if names.count(name) > 1}:
        raise SpecError(f"two models give the same step folder {sorted(double)[0]}. Name each model once in models")
    return steps


def slug(model: str) -> str:
    """A model's name or path as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")


def _ordered(steps: Mapping[str, StepSpec]) -> Iterator[str]:
    """As written, but each after what it needs."""
    done: list[str] = []
    while len(done) < len(steps):
        name = next(name for name in steps if name not in done and set(steps[name].needs) <= set(done))
        done.append(name)
        yield name


def _fill(
    spec: PipelineSpec, name: str, model: str | None, root: Path, prefix: str, fingerprints: Mapping[str, str]
) -> PipelineStep:
    step = spec.steps[name]
    values = {key: str(value) for key, value in spec.values.items()} | {MODEL: model or str(spec.values.get(MODEL, ""))}
    values |= {needed: str(root / needed) for needed in step.needs} | {HERE: str(root / name)}
    filled = [PLACEHOLDER.sub(lambda found: values[found[1]], text) for text in step.arguments]
    config = PLACEHOLDER.sub(lambda found: values[found[1]], step.config) if step.config else None
    arguments = [*(["--config", config] if config else []), *filled]
    made_of = [step.job, arguments, _text(config), [fingerprints[needed] for needed in step.needs]]
    return PipelineStep(
        name=prefix + name,
        job=step.job,
        model=model,
        folder=root / name,
        arguments=tuple(arguments),
        needs=tuple(prefix + needed for needed in step.needs),
        fingerprint=digest(made_of),
    )


def _text(config: str | None) -> str:
    if config is None:
        return ""
    try:
        return Path(config).read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read the config {config} of a step: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Where a step stands, as its `step.json` says."""

    state: State = "waiting"
    fingerprint: str = ""
    submission_id: str | None = None  # of its newest Ray Job
    exit_code: int | None = None
    seconds: float | None = None
    problem: str | None = None

    def of(self, step: PipelineStep) -> "StepProgress":
        """This, or a new start where the step has changed since."""
        return self if self.fingerprint == step.fingerprint else StepProgress(fingerprint=step.fingerprint)

    def ended(self, exit_code: int | None, seconds: float) -> "StepProgress":
        """3, finished with gaps, counts as finished: steps that need it can run, and the table says so."""
        state: State = "finished" if exit_code in (COMPLETE, INCOMPLETE) else "failed"
        return replace(self, state=state, exit_code=exit_code, seconds=round(seconds, 1))


def read_progress(step: PipelineStep) -> StepProgress:
    try:
        return StepProgress(**orjson.loads((step.folder / "step.json").read_bytes())).of(step)
    except FileNotFoundError:
        return StepProgress(fingerprint=step.fingerprint)


def write_progress(step: PipelineStep, progress: StepProgress) -> None:
    step.folder.mkdir(parents=True, exist_ok=True)
    values = {name: getattr(progress, name) for name in StepProgress.__dataclass_fields__}
    write_atomic(step.folder / "step.json", orjson.dumps(values, option=orjson.OPT_INDENT_2).decode() + "\n")


def missing_need(step: PipelineStep, states: Mapping[str, State]) -> str | None:
    """The first step that this one needs and cannot have."""
    return next((needed for needed in step.needs if states[needed] != "finished"), None)
