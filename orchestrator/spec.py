"""Specs: a YAML file, merged with key=value overrides by OmegaConf, validated by pydantic."""

import difflib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from cluster.files import NAME_BYTES
from cluster.keys import holds_key
from orchestrator.errors import SpecError

Provider = Literal["vllm", "openai", "deepinfra", "ollama", "compatible"]
Budget = PositiveInt | Literal["auto"]

# A user or a password before the host of an address; http://host:8000/@x has none.
_LOGIN = re.compile(r"https?://[^/\s?#]*@|[a-z][a-z0-9+.-]*://[^/\s]*:(?!\d*(/|$))\S*@", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_]\w*|null|~|", re.ASCII)  # the name of one, or nothing
# `${oc.env:HOME}` calls a function, which could copy a key into every record; `${other.key}` is only another key.
_RESOLVER = re.compile(r"\$\{[^{}]*:")


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

    @field_validator("run", check_fields=False)
    @classmethod
    def _name_a_folder(cls, run: str | None) -> str | None:
        if run is not None:
            check_run_name(run)
        return run


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

    `${other.key}` stands for another key's value; OmegaConf's functions, as in `${oc.env:HOME}`, are refused, for what
    they read would be written into every spec.yaml.
    Raises SpecError naming the file, the key and, for an unknown key, the nearest valid one.
    """
    for text in overrides:
        _check_override(text)
    try:
        base = OmegaConf.load(config) if config else OmegaConf.create()
        merged = OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides)))
        for key, text in (override.split("=", 1) for override in overrides):
            if _is_text(schema, key) and text not in ("", "null", "~"):
                OmegaConf.update(merged, key, yaml.load(text, yaml.BaseLoader) if text.startswith("[") else text)
        for where, text in _texts(OmegaConf.to_container(merged, resolve=False)):
            _check_text(text, where)
        values = OmegaConf.to_container(merged, resolve=True)
    except FileNotFoundError:
        raise SpecError(f"there is no spec file {config}. The shipped ones are in conf/") from None
    except RecursionError:
        raise SpecError(
            f"{config or 'an override'} is nested too deeply: brackets in brackets without an end"
        ) from None
    except (
        OSError,
        yaml.YAMLError,
        OmegaConfBaseException,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
    ) as error:
        # The last four: numbers of 5,000 digits, invalid dates, keys that are not text or a lone bracket.
        given = " ".join([*([str(config)] if config else []), *map(_shorten, overrides)])
        raise SpecError(f"cannot read the spec {given}: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise SpecError(f"{config} holds a {type(values).__name__}, expected key: value lines")
    try:
        return schema.model_validate({str(key): value for key, value in values.items()})
    except ValidationError as error:
        raise SpecError(_explain(schema, error)) from None


def _check_override(text: str) -> None:
    """Raise SpecError for what is not key=value, before anything of it is shown."""
    check_argument(text)
    if "=" not in text or text.startswith(("-", "=")):
        raise SpecError(f"{_shorten(text)!r} is not an override. Expected key=value, for example max_samples=20")


def check_argument(text: str) -> None:
    """Raise SpecError, which does not repeat it, for an argument of a job that nothing may show or record."""
    key, equals, value = text.partition("=")
    if holds_key(key):
        _check_text(key, "an argument")
    _check_text(value if equals else text, key if equals and key.isprintable() else "an argument")


def _shorten(text: str) -> str:
    """For a message of one line."""
    shown = text if text.isprintable() else repr(text)
    return shown if len(shown) < 200 else f"{shown[:100]}…"


def _check_text(text: str, where: str) -> None:
    """Raise SpecError for a text that must not get into a spec, naming `where` it stands and not what it holds."""
    refuse_login(text, where)
    if holds_key(text) or (where.endswith("api_key_env") and not _VARIABLE.fullmatch(text)):
        shown = "a key of the spec" if holds_key(where) else where
        raise SpecError(
            f"{shown} holds what looks like a secret, which specs, messages and lists of jobs would show. Put it into "
            "a variable or ~/.kosen/secrets.env (chmod 600) and name that: api_key_env=NAME (judge_api_key_env=NAME)"
        )
    if _RESOLVER.search(text):
        raise SpecError(
            f"{where} calls one of OmegaConf's functions (${{name:…}}), which a spec may not: what it reads would be "
            "written into spec.yaml. Give the value itself; a key goes into the variable that api_key_env= names"
        )
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise SpecError(f"{where} holds bytes that are not UTF-8. Give it in UTF-8")


def refuse_login(text: str, where: str) -> None:
    """Raise SpecError, which repeats nothing of it, for an address with a user, a password or (base_url) a query."""
    if _LOGIN.search(text) or (where.endswith("base_url") and re.search("[@?#]", text)):
        raise SpecError(
            f"{where} has a user or a password in an address, or a query behind it, which specs, messages and lists of "
            "jobs would show. Expected something like http://localhost:8000/v1. Put the key into a variable or "
            "~/.kosen/secrets.env and name it: api_key_env=NAME (judge_api_key_env=NAME)"
        )


def check_run_name(run: str) -> None:
    """Raise ValueError unless `run` names a folder below the run root, or is an absolute path."""
    parts = Path(run).parts
    if not run.isprintable() or run != run.strip():
        raise ValueError("a run's name has no line breaks, control characters or spaces around it")
    if not parts or parts == ("/",):
        raise ValueError("this names no folder of its own")
    if ".." in parts and parts[0] != "/":
        raise ValueError("a run's name does not lead out of the run root (..). Give an absolute path instead")
    if parts[0].startswith("~") or any(part.startswith("-") for part in parts):
        raise ValueError("no part of a run's name begins with - and none with ~")
    if max(len(os.fsencode(part)) for part in parts) > NAME_BYTES:
        raise ValueError(f"a folder's name has at most {NAME_BYTES} bytes")


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a spec, keys too, each with the key that it belongs to."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield where or "a key", str(key)
            yield from _texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, where)


def _is_text(schema: type[SpecModel], key: str) -> bool:
    """Whether a key holds text or a list of texts: `run=2026_11_20` and `question_ids=[66e2]` are not numbers."""
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


def to_yaml(spec: SpecModel, *, changed_only: bool = False) -> str:
    """The resolved spec as YAML, the form that the run folder keeps; `changed_only`: the keys that differ from the
    defaults, as `--dry-run` prints them."""
    return OmegaConf.to_yaml(OmegaConf.create(json.loads(spec.model_dump_json(exclude_defaults=changed_only))))


def _explain(schema: type[SpecModel], error: ValidationError) -> str:
    return "; ".join(_explain_one(schema, dict(problem)) for problem in error.errors()[:3])


def _explain_one(schema: type[SpecModel], problem: dict[str, Any]) -> str:
    path = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "constrained-", "literal["))]
    name = _shorten(".".join(path))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {name}. Did you mean {_nearest(schema, path)}?"
    if problem["type"] == "missing":
        return f"the key {name} is missing. Give it in the spec file, or as {name}=…"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}={_shorten(repr(problem['input']))} does not fit: {message}" if name else message


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
