"""What an exam run is asked to do: the spec that users write, the items it names, the requests that follow."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from jobs.tasks import hle
from orchestrator.asking import thoughts
from orchestrator.data.source import read_rows
from orchestrator.endpoints.endpoint import Wish, hostname
from orchestrator.errors import SpecError
from orchestrator.ray_cluster.find import find_path
from orchestrator.records.types import JudgeIdentity, Question, Wanted, digest
from orchestrator.serving import identity
from orchestrator.serving.identity import Served
from orchestrator.serving.spec import ServingSpec
from orchestrator.spec import Budget, PriceSpec, Provider, SpecModel, WandbSpec

RULE_JUDGE = "rule"
RULE_FILES = (Path(thoughts.__file__),)  # beside jobs/tasks
TEMPLATED: tuple[Provider, ...] = ("vllm", "compatible")  # servers that take chat_template_kwargs; others refuse them


class ExamSpec(SpecModel):
    """All keys of `conf/hle.yaml`. The first ten and their meaning come from the teams' own `conf/config.yaml`."""

    dataset: str = "cais/hle"
    provider: Provider = "vllm"
    base_url: str | None = None
    model: str
    max_completion_tokens: Budget = "auto"  # auto: what the context has left for each prompt
    reasoning: bool = True
    num_workers: PositiveInt | Literal["auto"] = "auto"  # the most requests in flight
    max_samples: PositiveInt | None = None  # the first so many questions
    judge: str | None = None  # `rule`, or a model; left out: what judge_base_url serves, else the rule
    judge_num_workers: PositiveInt | Literal["auto"] = "auto"

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
    system_prompt: Path | None = None  # a file; default: jobs/tasks/prompts/hle_system.txt
    judge_prompt: Path | None = None
    serving: ServingSpec = ServingSpec()
    judge_serving: ServingSpec = ServingSpec()
    price: PriceSpec | None = None
    judge_price: PriceSpec | None = None
    wandb: WandbSpec = WandbSpec()

    @model_validator(mode="after")
    def _samples_differ(self) -> "ExamSpec":
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples={self.samples} with temperature=0 gives the same answer each time")
        return self

    @property
    def run_name(self) -> str:
        return self.run or f"hle_{Path(self.model).name}"

    @property
    def judge_kind(self) -> Provider:
        """A judge behind a URL of one's own is `compatible` unless said otherwise, so that no OpenAI key goes there."""
        theirs = not self.judge_base_url or hostname(self.judge_base_url) == "api.openai.com"
        return self.judge_provider or ("openai" if theirs else "compatible")


def load_items(spec: ExamSpec) -> list[hle.Item]:
    """The questions that the spec asks for. Raises SpecError with the file, the row and what is wrong there."""
    try:
        items = hle.items_from_rows(read_rows(find_path(spec.dataset), split=spec.split, columns=hle.COLUMNS))
        return hle.select(
            items,
            multimodal=spec.multimodal,
            categories=spec.categories,
            question_ids=spec.question_ids,
            max_samples=spec.max_samples,
        )
    except ValueError as error:
        raise SpecError(f"{spec.dataset}: {error}") from None


def load_prompt(path: Path | None, default: str) -> tuple[str, str]:
    """A prompt's text and SHA-256."""
    try:
        return hle.load_prompt(str(path) if path else default)
    except ValueError as error:
        raise SpecError(str(error)) from None


def load_judge_prompt(spec: ExamSpec) -> tuple[str, str]:
    """The judge's prompt and its SHA-256, checked for its placeholders."""
    text, sha256 = load_prompt(spec.judge_prompt, "hle_judge.txt")
    try:
        hle.judge_messages(hle.Item("", "", "", "exactMatch", ""), "", text)
    except ValueError as error:
        raise SpecError(f"{spec.judge_prompt}: {error}") from None
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


def model_wish(spec: ExamSpec) -> Wish:
    """The endpoint of the model under test as the spec names it."""
    return Wish("model", spec.provider, spec.model, spec.base_url, spec.api_key_env)


def judge_wish(spec: ExamSpec) -> Wish | None:
    """The judge's endpoint as the spec names it; None for the rule."""
    if spec.judge in (None, RULE_JUDGE):
        return None
    return Wish("judge", spec.judge_kind, spec.judge, spec.judge_base_url, spec.judge_api_key_env)


def judge_identity(spec: ExamSpec, served: Served | None = None) -> JudgeIdentity:
    """Who judges, with what prompt and sampling: it goes into every record, and another identity judges anew.

    `served` is what answers as the judge; the rule's place there takes its version.
    """
    if spec.judge in (None, RULE_JUDGE):
        return {"model": RULE_JUDGE, "prompt_sha256": "", "sampling": {}, "served": rule_version()}
    _, sha256 = load_judge_prompt(spec)
    told: JudgeIdentity = {"model": str(spec.judge), "prompt_sha256": sha256, "sampling": judge_sampling(spec)}
    if served:
        told["served"] = identity.deciding(served)
    return told


def earlier_identity(judge: JudgeIdentity) -> JudgeIdentity:
    """The same judge in records of earlier versions, which do not say what served it."""
    return {"model": judge["model"], "prompt_sha256": judge["prompt_sha256"], "sampling": judge["sampling"]}


@cache
def rule_version() -> str:
    """A digest of the code that reads and compares answers, so that no change to it can be forgotten."""
    files = [*sorted(Path(hle.__file__).parent.glob("*.py")), *RULE_FILES]
    return digest([path.read_text(encoding="utf-8") for path in files])


def judge_sampling(spec: ExamSpec) -> dict[str, Any]:
    """A judge answers without a thought before its verdict and, where the server lets us say so, greedily."""
    if spec.judge_kind == "openai":
        return {}  # its reasoning models refuse a temperature
    if spec.judge_kind == "vllm":
        return {"temperature": 0.0, "chat_template_kwargs": template_options(spec.judge_serving, thinking=False)}
    return {"temperature": 0.0}


class Requests:
    """Turns an item into what is wanted of it and into the messages that ask for it. Travels to the actors.

    `served` is who answers; without it only answers of earlier versions, which do not say so, can be found.
    """

    def __init__(self, spec: ExamSpec, served: Served | None = None) -> None:
        self._spec = spec
        self._system, self.prompt_sha256 = load_prompt(spec.system_prompt, "hle_system.txt")
        self._sampling = sampling(spec)
        self._served = identity.deciding(served) if served else None
        asked = [spec.max_completion_tokens, spec.provider, spec.base_url]
        options = identity.deciding_options(spec.serving) | {"max_model_len": spec.serving.max_model_len}
        self._outcome_digest = digest([*asked, options])
        self._legacy_outcome_digest = digest([*asked, spec.serving.model_dump(mode="json")])

    def messages(self, item: hle.Item) -> list[dict[str, Any]]:
        return hle.messages(item, self._system)

    def wanted(self, item: hle.Item) -> list[Wanted]:
        """One entry per sample of this question."""
        asked = self.messages(item)
        wanted = Wanted(
            item.id,
            sample=0,
            fingerprint=digest([self._served, asked, self._sampling]) if self._served else "",
            spec=self._outcome_digest,
            reference=reference_digest(item),
            legacy=digest([self._spec.model, asked, self._sampling]),
            legacy_spec=self._legacy_outcome_digest,
        )
        return [wanted._replace(sample=sample) for sample in range(self._spec.samples)]

    def question(self, row: dict[str, Any]) -> Question:
        """What the prediction stage asks for a stored row."""
        item = item_of(row)
        return Question(self.wanted(item)[row["sample"]], self.messages(item), self.prompt_sha256)

    def prompt_characters(self, item: hle.Item) -> int:
        """Length of the prompt's text, for the estimate of `--dry-run`."""
        return len(self._system) + len(item.question)


def reference_digest(item: hle.Item) -> str:
    """Of what a verdict is about beside the answer: a question or a reference that changed is judged anew."""
    return digest([item.question, item.image, item.answer, item.answer_type])


def row_of(item: hle.Item) -> dict[str, Any]:
    """An item as it is stored for the stages."""
    return {
        "id": item.id,
        "question": item.question,
        "answer": item.answer,
        "answer_type": item.answer_type,
        "category": item.category,
        "image": item.image,
    }


def item_of(row: dict[str, Any]) -> hle.Item:
    """The item of a stored row, whatever else the row says."""
    return hle.Item(row["id"], row["question"], row["answer"], row["answer_type"], row["category"], row["image"])


def template_options(serving: ServingSpec, *, thinking: bool) -> dict[str, Any]:
    """Qwen's and most templates call the switch `enable_thinking`, DeepSeek's `thinking`; others pass it over."""
    off = {} if thinking else {"enable_thinking": False, "thinking": False}
    return off | serving.chat_template_kwargs
