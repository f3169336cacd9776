"""Specs: a YAML file, merged with key=value overrides by OmegaConf, validated by pydantic."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from orchestrator.errors import SpecError

Provider = Literal["vllm", "openai", "deepinfra", "ollama", "compatible"]
Budget = PositiveInt | Literal["auto"]


class SpecModel(BaseModel):
    """A group of keys: unknown ones are errors, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _take_defaults_for_empty_groups(cls, values: Any) -> Any:
        """YAML reads a group whose every key is commented out as null."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None or _group(cls, key) is None}


class ServingSpec(SpecModel):
    """How vLLM is deployed on Ray Serve. Names are vLLM's own; `null` leaves vLLM's default."""

    parallelism: Literal["auto"] | None = None  # auto: the three sizes below follow from model and GPUs
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    replicas: PositiveInt = 1
    max_replicas: PositiveInt | None = None  # above `replicas`: Serve scales between the two
    max_model_len: PositiveInt | None = None
    yarn_factor: float | None = Field(default=None, gt=1)  # context extension, passed as hf_overrides
    hf_overrides: dict[str, Any] = {}
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    enable_chunked_prefill: bool | None = None
    enforce_eager: bool = False
    reasoning_parser: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    engine_kwargs: dict[str, Any] = {}  # any other option of vLLM's engine
    startup_timeout: float = Field(default=1800, gt=0)  # seconds until the first token

    @model_validator(mode="after")
    def _one_decides(self) -> "ServingSpec":
        """A 1 is no wish: the shipped specs have it, and `parallelism=auto` on the command line should do."""
        sizes = ("tensor_parallel_size", "pipeline_parallel_size", "replicas", "max_replicas")
        given = next((name for name in sizes if getattr(self, name) not in (1, None)), None)
        if self.parallelism == "auto" and given:
            raise ValueError(f"parallelism=auto decides {given} too: leave out one of the two")
        return self


class PriceSpec(SpecModel):
    """Prices per million tokens, in any one currency."""

    input: float = Field(default=0, ge=0)
    output: float = Field(default=0, ge=0)


class WandbSpec(SpecModel):
    """Tracking by Weights & Biases; off unless a project is named."""

    project: str | None = None
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"


S = TypeVar("S", bound=SpecModel)


def load_spec(schema: type[S], config: Path | None, overrides: Sequence[str]) -> S:
    """Read `config`, lay `overrides` (key=value, nested with dots) over it and validate.

    Raises SpecError naming the file, the key and, for an unknown key, the nearest valid one.
    """
    wrong = [text for text in overrides if "=" not in text or text.startswith(("-", "="))]
    if wrong:
        raise SpecError(f"{wrong[0]!r} is not an override. Expected key=value, for example max_samples=20")
    try:
        base = OmegaConf.load(config) if config else OmegaConf.create()
        merged = OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides)))
        for key, text in (override.split("=", 1) for override in overrides):
            if _is_text(schema, key) and text not in ("", "null", "~"):
                OmegaConf.update(merged, key, yaml.load(text, yaml.BaseLoader) if text.startswith("[") else text)
        values = OmegaConf.to_container(merged, resolve=True)
    except FileNotFoundError:
        raise SpecError(f"there is no spec file {config}. The shipped ones are in conf/") from None
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read the spec {config or ''} {' '.join(overrides)}: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise SpecError(f"{config} holds a {type(values).__name__}, expected key: value lines")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise SpecError(_explain(schema, error)) from None


def _is_text(schema: type[SpecModel], key: str) -> bool:
    """Whether a key holds text or a list of texts: `run=2026_11_20` and `question_ids=[66e2]` are no numbers."""
    name, _, rest = key.partition(".")
    if group := _group(schema, name):
        return _is_text(group, rest)
    field = schema.model_fields.get(name)
    return field is not None and not rest and field.annotation in (str, str | None, list[str])


def _group(schema: type[SpecModel], name: str) -> type[SpecModel] | None:
    """The group of keys that a field is, if it is one."""
    field = schema.model_fields.get(name)
    found = field.annotation if field else None
    return found if isinstance(found, type) and issubclass(found, SpecModel) else None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a one-sentence report."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def to_yaml(spec: SpecModel) -> str:
    """The resolved spec as YAML, the form that `--dry-run` prints and the run folder keeps."""
    return OmegaConf.to_yaml(OmegaConf.create(json.loads(spec.model_dump_json())))


def _explain(schema: type[SpecModel], error: ValidationError) -> str:
    return "; ".join(_explain_one(schema, dict(problem)) for problem in error.errors()[:3])


def _explain_one(schema: type[SpecModel], problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "constrained-", "literal["))]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {name}. Did you mean {_nearest(schema, path)}?"
    if problem["type"] == "missing":
        return f"the key {name} is missing. Give it in the spec file, or as {name}=…"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}={problem['input']!r} does not fit: {message}" if name else message


def _nearest(schema: type[SpecModel], path: list[str]) -> str:
    """The valid key nearest to a wrong one: in its own group first, then anywhere in the spec."""
    keys = _all_keys(schema)
    wrong = ".".join(path)
    matches = difflib.get_close_matches(wrong, keys, n=1, cutoff=0.5)
    if matches:
        return matches[0]
    leaves = {key.rsplit(".", 1)[-1]: key for key in reversed(keys)}
    found = difflib.get_close_matches(path[-1], leaves, n=1, cutoff=0)
    return leaves[found[0]]


def _all_keys(schema: type[SpecModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in schema.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, SpecModel):
            keys += _all_keys(field.annotation, f"{prefix}{name}.")
    return keys
