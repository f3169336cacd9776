"""What an exam run is asked to do: the spec that users write, and what follows from it for model and judge."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from jobs.tasks import prompt_files
from jobs.tasks.registry import DEFAULT_TASK, code_of, find_task
from jobs.tasks.task import JudgeFormat
from orchestrator.asking import thoughts
from orchestrator.endpoints.endpoint import EndpointSpec, hostname
from orchestrator.errors import SpecError
from orchestrator.records.types import JudgeIdentity, digest
from orchestrator.serving import identity
from orchestrator.serving.identity import Served
from orchestrator.serving.spec import ServingSpec
from orchestrator.spec import Budget, PriceSpec, Provider, SpecModel, WandbSpec

RULE_JUDGE = "rule"
RULE_FILES = (Path(thoughts.__file__),)  # beside those of the task
OF_THE_TASK = ("dataset", "split", "samples")  # keys whose defaults are the task's
TEMPLATED: tuple[Provider, ...] = ("vllm", "compatible")  # servers that take chat_template_kwargs; others refuse them


class ExamSpec(SpecModel):
    """All keys of `conf/hle.yaml`. The first ten and their meaning come from the teams' own `conf/config.yaml`."""

    dataset: str = ""  # default: the task's own
    provider: Provider = "vllm"
    base_url: str | None = None
    model: str
    max_completion_tokens: Budget = "auto"  # auto: what the context has left for each prompt
    reasoning: bool = True
    num_workers: PositiveInt | Literal["auto"] = "auto"  # the most requests in flight
    max_samples: PositiveInt | None = None  # the first so many questions
    judge: str | None = None  # `rule`, or a model; left out: what judge_base_url serves, else the rule
    judge_num_workers: PositiveInt | Literal["auto"] = "auto"

    task: str = DEFAULT_TASK  # a module of jobs/tasks, or the path of one's own: my_task.py, my_task.yaml
    run: str | None = None  # the run folder: a name below the cluster's run root, or an absolute path
    judge_base_url: str | None = None
    request_timeout: PositiveFloat = 3600  # seconds for one attempt at one answer

    split: str = "test"
    multimodal: bool = False
    categories: list[str] = []
    question_ids: list[str] = []
    samples: PositiveInt = 1  # answers per question, for avg@k and pass@k
    temperature: NonNegativeFloat | None = None
    top_p: float | None = Field(default=None, gt=0, le=1)
    api_key_env: str | None = None  # names the variable that holds the endpoint's key
    judge_provider: Provider | None = None
    judge_api_key_env: str | None = None
    system_prompt: Path | None = None  # a file; default: the task's own
    judge_prompt: Path | None = None
    serving: ServingSpec = ServingSpec()
    judge_serving: ServingSpec = ServingSpec()
    price: PriceSpec | None = None
    judge_price: PriceSpec | None = None
    wandb: WandbSpec = WandbSpec()

    @model_validator(mode="before")
    @classmethod
    def _take_defaults_of_the_task(cls, values: Any) -> Any:
        named = values.get("task", cls.model_fields["task"].default) if isinstance(values, dict) else None
        if not isinstance(named, str):
            return values
        task = find_task(named)
        own = {key: getattr(task, key) for key in OF_THE_TASK}
        return {key: value for key, value in own.items() if value != cls.model_fields[key].default} | values

    @model_serializer(mode="wrap")
    def _pass_over_defaults_of_the_task(
        self, dump: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        told: dict[str, Any] = dump(self)
        if info.exclude_defaults:
            task = find_task(self.task)
            told = {key: value for key, value in told.items() if key not in OF_THE_TASK or value != getattr(task, key)}
        return told

    @model_validator(mode="after")
    def _samples_differ(self) -> "ExamSpec":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples={self.samples} with temperature=0 gives the same answer each time")
        return self

    @property
    def run_name(self) -> str:
        return self.run or f"{find_task(self.task).name}_{Path(self.model).name}"

    @property
    def judge_kind(self) -> Provider:
        """A judge behind a URL of one's own is `compatible` unless said otherwise, so that no OpenAI key goes there."""
        theirs = not self.judge_base_url or hostname(self.judge_base_url) == "api.openai.com"
        return self.judge_provider or ("openai" if theirs else "compatible")


def load_prompt(path: Path | None, default: str) -> tuple[str, str]:
    """A prompt's text and SHA-256: of the file, or where none is named of the text `default`."""
    try:
        return prompt_files.load_prompt(str(path)) if path else (default, prompt_files.prompt_digest(default))
    except ValueError as error:
        raise SpecError(str(error)) from None


def judge_format(spec: ExamSpec) -> JudgeFormat:
    """How the task has a model judge. Raises SpecError where it has none do so."""
    if found := find_task(spec.task).judge:
        return found
    raise SpecError(f"task={spec.task} is not judged by a model, but judge={spec.judge} is given. Give judge=rule")


def load_judge_prompt(spec: ExamSpec) -> tuple[str, str]:
    """The judge's prompt and its SHA-256, checked for its placeholders."""
    form = judge_format(spec)
    text, sha256 = load_prompt(spec.judge_prompt, form.prompt)
    if not text:
        raise SpecError(f"task={spec.task} has no prompt for a judge. Name a file: judge_prompt=, or give judge=rule")
    item, response = form.trial
    try:
        form.messages(item, [response], text)
    except ValueError as error:
        raise SpecError(f"{spec.judge_prompt or spec.task}: {error}") from None
    return text, sha256


def sampling(spec: ExamSpec) -> dict[str, Any]:
    """What decides an answer beside the model and its messages, under the names of the chat API."""
    options: dict[str, Any] = {}
    if spec.temperature is not None:
        options["temperature"] = spec.temperature
    if spec.top_p is not None:
        options["top_p"] = spec.top_p
    template = template_options(spec.serving, thinking=spec.reasoning)
    if spec.provider in TEMPLATED and template:
        options["chat_template_kwargs"] = template
    return options


def request_options(spec: ExamSpec) -> dict[str, Any]:
    """Everything that goes into a request beside model and messages."""
    return sampling(spec) | budget_option(spec.provider, spec.max_completion_tokens)


def budget_option(provider: Provider, budget: Budget) -> dict[str, Any]:
    """OpenAI renamed `max_tokens`; the other servers all know the old name. Unset, vLLM gives what the context has."""
    if budget == "auto":
        return {}
    return {"max_completion_tokens" if provider == "openai" else "max_tokens": budget}


def model_endpoint_spec(spec: ExamSpec) -> EndpointSpec:
    """The endpoint of the model under test as the spec names it."""
    return EndpointSpec("model", spec.provider, spec.model, spec.base_url, spec.api_key_env)


def judge_endpoint_spec(spec: ExamSpec) -> EndpointSpec | None:
    """The judge's endpoint as the spec names it; None for the rule."""
    if spec.judge in (None, RULE_JUDGE):
        return None
    return EndpointSpec("judge", spec.judge_kind, spec.judge, spec.judge_base_url, spec.judge_api_key_env)


def judge_identity(spec: ExamSpec, served: Served | None = None) -> JudgeIdentity:
    """Who judges, with what prompt and sampling: it goes into every record, and another identity judges again.

    `served` is what answers as the judge; the rule's place there takes its version.
    """
    if spec.judge in (None, RULE_JUDGE):
        return {"model": RULE_JUDGE, "prompt_sha256": "", "sampling": {}, "served": rule_version(spec.task)}
    _, sha256 = load_judge_prompt(spec)
    told: JudgeIdentity = {"model": str(spec.judge), "prompt_sha256": sha256, "sampling": judge_sampling(spec)}
    if served:
        told["served"] = identity.deciding(served)
    return told


def earlier_identity(judge: JudgeIdentity) -> JudgeIdentity:
    """The same judge in records of earlier versions, which do not say what served it."""
    return {"model": judge["model"], "prompt_sha256": judge["prompt_sha256"], "sampling": judge["sampling"]}


@cache
def rule_version(task: str) -> str:
    """A digest of the code by which a task's rule reads and compares answers, so that no change to it can be forgotten.

    Other tasks are not part of it: a new one makes nothing be judged again.
    """
    return digest([path.read_text(encoding="utf-8") for path in (*code_of(task), *RULE_FILES)])


def judge_sampling(spec: ExamSpec) -> dict[str, Any]:
    """A judge answers without a thought before its verdict and, where the server lets us say so, greedily."""
    if spec.judge_kind == "openai":
        return {}  # its reasoning models refuse a temperature
    if spec.judge_kind == "vllm":
        return {"temperature": 0.0, "chat_template_kwargs": template_options(spec.judge_serving, thinking=False)}
    return {"temperature": 0.0}


def template_options(serving: ServingSpec, *, thinking: bool) -> dict[str, Any]:
    """Qwen's and most templates call the switch `enable_thinking`, DeepSeek's `thinking`; others pass it over."""
    off = {} if thinking else {"enable_thinking": False, "thinking": False}
    return off | serving.chat_template_kwargs
