"""verl's own configuration: composed by hydra, overlaid with our keys and the user's, checked by verl, written.

A wrong key, a wrong type and a combination that verl refuses end in a SpecError before anything is started.
"""

import contextlib
import dataclasses
import difflib
import importlib.util
import io
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from orchestrator.errors import SpecError
from orchestrator.files import write_atomic
from orchestrator.spec import first_line

Kind = Literal["sft", "ppo"]
ROOTS: dict[Kind, str] = {"sft": "sft_trainer_engine", "ppo": "ppo_trainer"}
# Groups that verl makes dataclasses of, which check their values. Not the models: to make one is to load a tokenizer.
# PPO's actor and critic are made by verl's own check.
MADE: dict[Kind, tuple[str, ...]] = {
    "sft": ("engine", "optim", "checkpoint", "profiler"),
    "ppo": ("algorithm", "actor_rollout_ref.rollout", "distillation"),
}
# What verl reads with `.get` though neither its files nor its dataclasses name it.
UNNAMED = {"reward.custom_reward_function.reward_kwargs"}
MOVED = {
    "pkg://orchestrator.training.rewards": "pkg://orchestrator.training.trainer.rewards",
    "jobs.demo_muon": "jobs.demo.muon",
}
EPOCHS = "after_each_epoch"  # the one text that verl's SFT takes for a number of steps


def resolve(kind: Kind, keys: Mapping[str, Any], overrides: Mapping[str, Any]) -> DictConfig:
    """verl's configuration with `keys` (ours) and then `overrides` (the user's `verl:`) laid over its defaults.

    Both may be nested or dotted. Interpolations are resolved, so that the result says all that a trainer will do.
    Raises SpecError: an unknown key (with the nearest valid one), a wrong type, a missing value, what verl refuses.
    """
    default = defaults(kind)
    config = default.copy()
    overlay = _Overlay(default)
    overlay.lay(config, keys)
    overlay.lay(config, overrides)
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise SpecError(f"verl's configuration cannot be resolved: {first_line(error)}") from None
    if missing:
        raise SpecError(f"verl wants a value for {missing[0]}. Give it as verl.{missing[0]}=…")
    _check_groups(kind, config)
    if kind == "ppo":
        _check_ppo(config)
    return config


def defaults(kind: Kind) -> DictConfig:
    """The installed verl's defaults, with its interpolations."""
    from hydra import compose, initialize_config_dir

    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise SpecError("verl is not installed in this environment. Give: make install")
    with initialize_config_dir(f"{spec.submodule_search_locations[0]}/trainer/config", version_base=None):
        return compose(ROOTS[kind])


def write(folder: Path, config: DictConfig, kosen: Mapping[str, Any]) -> None:
    """Write `folder`/verl.yaml: verl's keys, and in the group `kosen` what our drivers read and take off again."""
    write_atomic(folder / "verl.yaml", OmegaConf.to_yaml(config) + OmegaConf.to_yaml({"kosen": dict(kosen)}))


def read(path: Path) -> DictConfig:
    """Reads a configuration of an earlier call, also of one before modules that it names have moved."""
    text = path.read_text(encoding="utf-8")
    for before, now in MOVED.items():
        text = text.replace(before, now)
    config = OmegaConf.create(text)
    assert isinstance(config, DictConfig)
    return config


def differences(kind: Kind, config: DictConfig) -> dict[str, Any]:
    """The dotted keys of a resolved configuration whose values are not verl's own, in verl's order."""
    default = defaults(kind)
    OmegaConf.resolve(default)
    before = dict(_leaves(default))
    return {key: value for key, value in _leaves(config) if key not in before or before[key] != value}


def changes(before: DictConfig, after: DictConfig) -> dict[str, tuple[Any, Any]]:
    """The dotted keys on which two resolved configurations differ, and both values; None: it is not in one of them."""
    was, now = dict(_leaves(before)), dict(_leaves(after))
    return {key: (was.get(key), now.get(key)) for key in was | now if was.get(key) != now.get(key)}


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys of what a user gives under `verl:`, nested or dotted, all dotted."""
    for key, value in values.items():
        name = prefix + ".".join(_split(key))
        if isinstance(value, Mapping):
            yield from dotted(value, f"{name}.")
        else:
            yield name


def _leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in map(str, node):
        value = _node(node, name)
        if isinstance(value, DictConfig) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            plain = OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
            yield f"{prefix}{name}", plain


class _Overlay:
    """Lays values over a copy of verl's defaults, which say what keys there are and of what type."""

    def __init__(self, default: DictConfig) -> None:
        self._default = default

    def lay(self, config: DictConfig, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._put(config, self._default, (), _split(key), value)

    def _put(
        self,
        group: DictConfig,
        default: DictConfig | None,
        above: tuple[str, ...],
        parts: Sequence[str],
        value: Any,
    ) -> None:
        """Set `parts` below `group`; `default` is verl's own group there, None where verl has none."""
        name, rest = parts[0], parts[1:]
        path = (*above, name)
        whole = (*path, *rest, *_first_path(value))
        kind = self._type(default, path, whole)
        below = _node(default, name)
        inner = {".".join(rest): value} if rest else value
        if isinstance(inner, Mapping):
            if not isinstance(below, DictConfig) and not _takes_groups(kind):
                raise self._unknown(whole)
            child = _group(group, name)
            for key, one in inner.items():
                self._put(child, below if isinstance(below, DictConfig) else None, path, _split(key), one)
        elif isinstance(below, DictConfig) and below and value is not None:
            raise SpecError(
                f"verl.{'.'.join(path)}={value!r} does not fit: it is a group, with keys like {_some(below)}"
            )
        else:
            with open_dict(group):
                group[name] = _checked(".".join(path), kind, below, value)

    def _type(self, default: DictConfig | None, path: tuple[str, ...], whole: tuple[str, ...]) -> Any:
        """The annotation of the dataclass field behind a key, Any where nothing says. Raises for an unknown key."""
        if not default or ".".join(path) in UNNAMED:  # an empty group is verl's way to say: anything
            return Any
        fields = _fields(default)
        if path[-1] not in default and path[-1] not in fields:
            raise self._unknown(whole)
        return fields.get(path[-1])

    def _unknown(self, path: tuple[str, ...]) -> SpecError:
        wrong = ".".join(path)
        return SpecError(f"verl has no key {wrong}. Did you mean verl.{_nearest(wrong, _keys(self._default))}?")


def _split(key: str) -> list[str]:
    """hydra's leading `+`, for keys that verl's files do not list, is not needed here and not minded."""
    return str(key).lstrip("+").split(".")


def _node(group: DictConfig | None, name: str) -> Any:
    """verl's default below `group`; an interpolated one as its resolved value."""
    if group is None or name not in group or OmegaConf.is_missing(group, name):
        return None
    return group[name]


def _group(parent: DictConfig, name: str) -> DictConfig:
    """The group `name` to write into; what was an interpolation becomes a copy, so that only this place changes."""
    child = parent.get(name)
    if not isinstance(child, DictConfig) or OmegaConf.is_interpolation(parent, name):
        with open_dict(parent):
            parent[name] = child.copy() if isinstance(child, DictConfig) else {}
    return typing.cast(DictConfig, parent[name])


def _fields(group: DictConfig) -> dict[str, Any]:
    """Names and types of the dataclass that verl makes of a group; empty where it makes none."""
    target = group.get("_target_")
    if not target:
        return {}
    from hydra.utils import get_class

    cls = get_class(target)
    return typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}


def _takes_groups(kind: Any) -> bool:
    return kind is Any or dict in {typing.get_origin(one) or one for one in (kind, *typing.get_args(kind))}


def _checked(key: str, kind: Any, default: Any, value: Any) -> Any:
    """The value as its type has it. Raises SpecError where it is not of that type."""
    if value is None or kind is Any:
        return value
    if kind is None:
        return _checked_by_example(key, default, value)
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError

    try:
        fits = TypeAdapter(kind).validate_python(value, strict=isinstance(value, str))
    except PydanticSchemaGenerationError:
        return value
    except ValidationError as error:
        raise SpecError(f"verl.{key}={value!r} does not fit: {error.errors()[0]['msg']}") from None
    return fits if isinstance(fits, bool | int | float | str) else value


def _checked_by_example(key: str, default: Any, value: Any) -> Any:
    """Groups without a dataclass say only by their defaults what they take."""
    wanted = "true or false" if isinstance(default, bool) else "a number" if isinstance(default, int | float) else ""
    fits = isinstance(value, bool) == isinstance(default, bool) and isinstance(value, int | float)
    if wanted and not fits and not (value == EPOCHS and key in ("trainer.save_freq", "trainer.test_freq")):
        raise SpecError(f"verl.{key}={value!r} does not fit: expected {wanted}")
    return value


def _some(group: DictConfig) -> str:
    return ", ".join([name for name in map(str, group) if not name.startswith("_")][:3])


def _first_path(value: Any) -> tuple[str, ...]:
    """The way to the first value in nested groups, for a message about a group that does not exist."""
    if not isinstance(value, Mapping) or not value:
        return ()
    name, inner = next(iter(value.items()))
    return str(name), *_first_path(inner)


def _nearest(wrong: str, keys: Sequence[str]) -> str:
    """A similar path; else, of the keys with the most similar last part, the one whose path is nearest."""
    if similar := difflib.get_close_matches(wrong, keys, n=1, cutoff=0.75):
        return similar[0]
    leaves = {key.rpartition(".")[2] for key in keys}
    alike = difflib.get_close_matches(wrong.rpartition(".")[2], leaves, n=1, cutoff=0.7)
    candidates = [key for key in keys if key.rpartition(".")[2] == alike[0]] if alike else keys
    return difflib.get_close_matches(wrong, candidates, n=1, cutoff=0)[0]


def _keys(node: DictConfig, prefix: str = "") -> list[str]:
    """All dotted keys, those of interpolated groups not repeated."""
    found: list[str] = []
    for name in map(str, node):
        if name.startswith("_"):
            continue
        found.append(f"{prefix}{name}")
        child = None if OmegaConf.is_missing(node, name) or OmegaConf.is_interpolation(node, name) else node[name]
        if isinstance(child, DictConfig):
            found += _keys(child, f"{prefix}{name}.")
    return found + [f"{prefix}{name}" for name in _fields(node) if name not in node and not name.startswith("_")]


def _check_groups(kind: Kind, config: DictConfig) -> None:
    """Have verl make its dataclasses of the groups that name one: many of them check their values."""
    from verl.utils.config import omega_conf_to_dataclass

    for group in MADE[kind]:
        with _refusals(group):
            omega_conf_to_dataclass(OmegaConf.select(config, group))


def _check_ppo(config: DictConfig) -> None:
    """What verl's main_ppo checks before it starts: batch sizes against GPUs, micro batches, LoRA in vLLM."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    plain = config.copy()
    with open_dict(plain):
        del plain.critic["model"]  # see MADE
    with _refusals("PPO"):
        validate_config(plain, use_reference_policy=need_reference_policy(plain), use_critic=need_critic(plain))


@contextlib.contextmanager
def _refusals(what: str) -> Iterator[None]:
    """Turns verl's complaints into one sentence, and keeps its notices off the screen."""
    from hydra.errors import InstantiationException

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise SpecError(f"verl refuses this configuration ({what}): {first_line(error)}") from None
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise SpecError(f"verl refuses this configuration ({what}): {first_line(cause)}") from None
