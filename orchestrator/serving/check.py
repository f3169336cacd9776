"""Checks a spec's vLLM options against what the installed vLLM takes. Needs no GPU and no model.

Asked are vLLM's own tables: the fields and types of its engine's and its server's arguments, the limits of its
configs, the parsers that it registers. To import them takes seconds, so only a spec that says something of them pays.
"""

import dataclasses
import difflib
import importlib.util
import os
import textwrap
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.metadata import entry_points
from typing import Annotated, Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from orchestrator.errors import SpecError
from orchestrator.serving.identity import GENERATION_KEYS
from orchestrator.serving.spec import ServingSpec

# What is given elsewhere or cannot be chosen, and what to do instead.
_ELSEWHERE = {
    "tensor_parallel_size": "Give {group}.tensor_parallel_size",
    "pipeline_parallel_size": "Give {group}.pipeline_parallel_size",
    "model": "The model has its own key",
    "served_model_name": "The model has its own key",
    "distributed_executor_backend": "Ray Serve chooses it: leave it out",
    "host": "Ray Serve chooses it: leave it out",
    "port": "Ray Serve chooses it: leave it out",
    "hf_token": "The spec is recorded: set HF_TOKEN in the environment or in ~/.kosen/secrets.env",
    "api_key": "The endpoint has a key already: leave it out",
}
_PARSERS = {  # options that name an entry of a registry, and where that is
    "reasoning_parser": ("vllm.reasoning", "ReasoningParserManager"),
    "tool_call_parser": ("vllm.tool_parsers", "ToolParserManager"),
}
_PLUGINS = {"reasoning_parser": "reasoning_parser_plugin", "tool_call_parser": "tool_parser_plugin"}  # may add more
_MESSAGE = 300  # characters of what vLLM says; some of its lists are pages long


def check_options(spec: ServingSpec, group: str = "serving") -> None:
    """Raise SpecError for an option that vLLM does not know or a value that it does not take, by its key in `group`."""
    parser = {"reasoning_parser": spec.reasoning_parser} if spec.reasoning_parser else {}
    options = parser | spec.engine_kwargs
    if not options:
        return
    if importlib.util.find_spec("vllm") is None:  # a machine that only sends jobs elsewhere; there it is checked again
        return
    with _environment_kept():
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # of this process, which only imports it
        types = _option_types()
    for name, value in options.items():
        key = f"{group}.engine_kwargs.{name}" if name in spec.engine_kwargs else f"{group}.{name}"
        _check_name(name, key, group, types)
        if value is not None and (wrong := _wrong(name, value, types[name], options)):
            raise SpecError(f"{key}={value!r} does not fit: {textwrap.shorten(wrong, _MESSAGE, placeholder=' …')}")


@contextmanager
def _environment_kept() -> Iterator[None]:
    """vLLM sets variables as it is imported; a cluster that this process starts later would have them, and its engines
    would write less into their logs."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _option_types() -> dict[str, Any]:
    """The type of each option that Ray Serve hands on, to the engine or to vLLM's server."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    fields = (*dataclasses.fields(FrontendArgs), *dataclasses.fields(AsyncEngineArgs))
    return {field.name: field.type for field in fields}


def _check_name(name: str, key: str, group: str, known: Iterable[str]) -> None:
    if name in _ELSEWHERE:
        raise SpecError(f"{key} is not an option here. {_ELSEWHERE[name].format(group=group)}")
    if name in known:
        return
    from vllm import __version__

    near = difflib.get_close_matches(name.replace("-", "_"), list(known), n=1, cutoff=0.6)
    place = group if near and near[0] in ServingSpec.model_fields else f"{group}.engine_kwargs"
    hint = f" Did you mean {place}.{near[0]}?" if near else ""
    raise SpecError(f"unknown key {key}: vLLM {__version__} has no option {name}.{hint}")


def _wrong(name: str, value: Any, kind: Any, options: dict[str, Any]) -> str | None:
    """What vLLM would say of a value, None if nothing."""
    if name in _PARSERS and not options.get(_PLUGINS[name]):
        return _unlisted(value, _registered(*_PARSERS[name]))
    if name == "quantization":
        from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

        return _unlisted(value, QUANTIZATION_METHODS)
    if name == "load_format" and isinstance(value, str) and not _has_foreign_plugins():
        from vllm.model_executor.model_loader import LoadFormats

        return _unlisted(value.lower(), typing.get_args(LoadFormats))
    if name == "override_generation_config" and isinstance(value, dict):
        return next(filter(None, map(_unread, value)), None)
    if name == "speculative_config" and isinstance(value, dict):
        from vllm.config import SpeculativeConfig

        known = [field.name for field in dataclasses.fields(SpeculativeConfig)]
        return next(filter(None, (_unlisted(key, known) for key in value)), None)
    refused = next(filter(None, (_refusal(one, value) for one in (kind, *_limits(name)))), None)
    members = _members(kind)
    return _unlisted(value, members) if refused and members else refused


def _unlisted(value: Any, known: Iterable[str]) -> str | None:
    names = sorted(known)
    if value in names:
        return None
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6)
    return (f"did you mean {near[0]}? " if near else "") + f"vLLM knows {', '.join(names)}"


def _has_foreign_plugins() -> bool:
    """Whether packages beside vLLM itself extend it as it starts, with loaders of their own for example."""
    from vllm.plugins import DEFAULT_PLUGINS_GROUP

    return any(not plugin.value.startswith("vllm.") for plugin in entry_points(group=DEFAULT_PLUGINS_GROUP))


def _unread(key: str) -> str | None:
    """What to say of a sampling parameter, or a name that is nearly one, which vLLM would ignore in silence.

    Other names pass: models of vLLM look for some of their own there, and generation_config.json has many more.
    """
    if key in GENERATION_KEYS:
        return None
    from transformers import GenerationConfig
    from vllm import SamplingParams

    near = difflib.get_close_matches(key, GENERATION_KEYS, n=1, cutoff=0.75)
    if hasattr(SamplingParams(), key) or (near and not hasattr(GenerationConfig(), key)):
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{hint}vLLM ignores {key} here and reads {', '.join(GENERATION_KEYS)}"
    return None


def _registered(module: str, manager: str) -> list[str]:
    return list(getattr(importlib.import_module(module), manager).list_registered())


def _members(kind: Any) -> set[str]:
    """Names of an enumeration's members, which vLLM takes too; pydantic wants their values."""
    kinds = typing.get_args(kind) or (kind,)
    return {name for one in kinds if isinstance(one, type) and issubclass(one, Enum) for name in one.__members__}


def _limits(name: str) -> Iterator[Any]:
    """The types with their limits that vLLM's configs give an option; the engine's arguments leave the limits out."""
    import vllm.config

    others = {"SpeculativeConfig"}  # of a draft, which has options of the same names
    for config in (value for name, value in vars(vllm.config).items() if name not in others):
        field = getattr(config, "__pydantic_fields__", {}).get(name) if isinstance(config, type) else None
        if field is not None and field.metadata:
            yield Annotated[(field.annotation, *field.metadata)]


def _refusal(kind: Any, value: Any) -> str | None:
    """What is wrong with a value for a type, None if nothing or if pydantic does not know."""
    try:
        TypeAdapter(kind, config=None if dataclasses.is_dataclass(kind) else _LOOSE).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        return f"{where}: {problem['msg']}" if where else str(problem["msg"])
    except PydanticUserError:  # a type that only type checkers know
        return None
    return None


_LOOSE = ConfigDict(arbitrary_types_allowed=True)
