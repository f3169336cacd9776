"""Writes the pages of docs/reference/ that follow from the code: python -m docs.generate

commands.md comes from the argument parsers and the Makefile, keys.md and site-profile.md from the pydantic models. What
a key means is the comment beside its field, else docs/meanings.py, else the comment beside it in a spec of conf/.
tasks.md comes from the modules of jobs/tasks/.
"""

import argparse
import ast
import importlib
import inspect
import re
import textwrap
import tokenize
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin
from unittest.mock import patch

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.files import REPOSITORY
from cluster.profile import Site
from docs.meanings import MEANINGS
from jobs import ENTRY_POINTS
from jobs.benchmarking.spec import BenchSpec
from jobs.exam.spec import ExamSpec
from jobs.tasks.registry import find_task, task_names
from orchestrator.pipelines.plan import PipelineSpec, StepSpec
from orchestrator.training.spec import PpoSpec, SftSpec

REFERENCE = REPOSITORY / "docs" / "reference"
NOTE = "<!-- Written by `python -m docs.generate`; a test compares. Edit the code that it reads, not this page. -->"
KEY = re.compile(r"^( *)([\w-]+): *(?:[^#]*?)(?: +# (.*))?$")


class PageSection(NamedTuple):
    title: str
    model: type[BaseModel]
    says: str
    specs: tuple[str, ...] = ()  # of conf/, whose comments help


KEYS = (
    PageSection(
        "Exams",
        ExamSpec,
        "Keys of `jobs.evaluate`, `jobs.predict`, `jobs.judge` and `jobs.score`; `conf/hle.yaml` is a spec.",
        ("hle.yaml", "config.yaml"),
    ),
    PageSection("Fine-tuning", SftSpec, "Keys of `jobs.sft`; `conf/sft-gsm8k.yaml` is a spec.", ("sft-gsm8k.yaml",)),
    PageSection(
        "Reinforcement learning",
        PpoSpec,
        "Keys of `jobs.ppo`; `conf/ppo-gsm8k.yaml` is a spec.",
        ("ppo-gsm8k.yaml", "sft-gsm8k.yaml"),
    ),
    *(
        PageSection(f"Data: {name}", model, f"Keys of `jobs.prepare {name}`.")
        for name, model in importlib.import_module("jobs.prepare").TASKS.items()
    ),
    PageSection("Merging", importlib.import_module("jobs.merge").MergeSpec, "Keys of `jobs.merge`."),
    PageSection("Uploading", importlib.import_module("jobs.upload").UploadSpec, "Keys of `jobs.upload`."),
    PageSection("Pipelines", PipelineSpec, "Keys of `jobs.pipeline`; `conf/pipelines/` has three specs."),
    PageSection("Pipelines: a step", StepSpec, "Keys of each entry of `steps`."),
    PageSection("Benchmark", BenchSpec, "Keys of `jobs.bench`; `conf/bench.yaml` is a spec.", ("bench.yaml",)),
)

# A command line that reaches the parser, where `[]` does not: what it is for, and the arguments.
MORE_WAYS: dict[str, tuple[tuple[str, list[str]], ...]] = {
    "jobs.score": (("of a run folder", ["model=m"]),),
    "jobs.bench": (("report", ["report"]),),
}


def main() -> None:
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The generated pages by their names."""
    return {"commands.md": _commands(), "keys.md": _keys(), "site-profile.md": _site_profile(), "tasks.md": _tasks()}


# --- tasks ---


def _tasks() -> str:
    return "\n".join(
        [
            *(NOTE, "# Tasks", ""),
            "`python -m jobs.evaluate model=NAME task=TASK` runs one, `--dry-run` says what it would do.",
            "Where a published figure rests on a reading that errs, it stands beside ours under its own name.",
            "[Add a task](../how-to/new-task.md)",
            "",
            "| task | data set | split | judged by | what |",
            "| --- | --- | --- | --- | --- |",
            *(_task(name) for name in task_names()),
            "",
        ]
    )


def _task(name: str) -> str:
    task = find_task(name)
    ways = [way for way, given in (("rule", task.rule), ("model", task.judge)) if given]
    says = (importlib.import_module(f"jobs.tasks.{name}").__doc__ or "").partition("\n")[0]
    turns = " Runs ask one turn yet, so it is refused." if task.turns > 1 else ""
    return f"| `{name}` | `{task.dataset}` | {task.split} | {', '.join(ways)} | {_cell(says)}{turns} |"


# --- commands ---


class _Found(Exception):
    """Carries the parser out of a command's `main`, before it reads anything."""


def parser_of(command: Callable[[Sequence[str]], int], arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser that a command builds for such arguments."""

    def stop(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Found(self)

    with patch.object(argparse.ArgumentParser, "parse_known_args", stop):
        try:
            command(list(arguments))
        except _Found as found:
            parser: argparse.ArgumentParser = found.args[0]
            return parser
    raise AssertionError(f"{command.__module__} builds no parser")


def _commands() -> str:
    lines = [
        *(NOTE, "# Commands", ""),
        "Run them in the repository's folder, with the Python of `.venv`. All jobs take `--config FILE key=value …`;",
        "most take `--dry-run` and `--json`. [Keys](keys.md) · [Exit codes](exit-codes.md)",
        "",
    ]
    lines += ["## make", "", "| target | what it does |", "| --- | --- |", *_targets(), ""]
    modules = [*(f"jobs.{job}" for job in sorted(ENTRY_POINTS)), "orchestrator.plan", "orchestrator.submit", "cluster"]
    for module in modules:
        command = importlib.import_module(f"{module}.__main__" if _is_folder(module) else module).main
        lines += _command(f"python -m {module}", parser_of(command))
        for suffix, arguments in MORE_WAYS.get(module, ()):
            lines += _command(f"python -m {module}", parser_of(command, arguments), suffix)
    return "\n".join(lines)


def _is_folder(module: str) -> bool:
    return (REPOSITORY / module.replace(".", "/")).is_dir()


def _targets() -> Iterator[str]:
    for found in re.finditer(r"^([a-z-]+):.*?## (.*)$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M):
        yield f"| `make {found[1]}` | {_cell(found[2])} |"


def _command(name: str, parser: argparse.ArgumentParser, suffix: str = "") -> list[str]:
    heading = f"`{name} {suffix}`" if re.fullmatch(r"\w+", suffix) else f"`{name}`" + (f", {suffix}" if suffix else "")
    lines = [f"## {heading}", "", " ".join((parser.description or "").split()), ""]
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    verbs = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    if plain := [action for action in actions if action not in verbs]:
        lines += ["| argument | meaning |", "| --- | --- |", *map(_argument, plain), ""]
    for verb in verbs:
        helps = {choice.dest: choice.help or "" for choice in verb._choices_actions}
        for chosen, below in verb.choices.items():
            lines += _verb(name, chosen, helps.get(chosen, ""), below)
    return lines


def _verb(name: str, verb: str, purpose: str, parser: argparse.ArgumentParser) -> list[str]:
    arguments = [_argument(action) for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    table = ["| argument | meaning |", "| --- | --- |", *arguments, ""] if arguments else []
    return [f"### `{name} {verb}`", "", purpose[:1].upper() + purpose[1:] + ".", "", *table]


def _argument(action: argparse.Action) -> str:
    shown = action.metavar if isinstance(action.metavar, str) else action.dest.replace("_", "-")
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {shown if action.metavar else shown.upper()}"
        name = ", ".join(action.option_strings) + value
    else:
        name = f"{shown} …" if action.nargs in ("*", "...") else shown
    choices = f"one of {', '.join(map(str, action.choices))}" if action.choices else ""
    default = f"default: {action.default}" if isinstance(action.default, int) and action.nargs != 0 else ""
    told = (action.help or "") % vars(action)
    meaning = "; ".join(part for part in (told, choices or (default if not action.help else "")) if part)
    return f"| `{name}` | {_cell(meaning)}{' (required)' if action.required and action.option_strings else ''} |"


# --- keys ---


def _keys() -> str:
    lines = [
        NOTE,
        "# Keys of the specs",
        "",
        "A spec is a YAML file. Each key can be given on the command line too, nested ones with dots:",
        "`serving.replicas=4`. An unknown key is refused with the nearest valid one. `--dry-run` shows the keys that",
        "differ from their defaults, with `--json` all of them. Names are vLLM's and verl's own where they have one.",
        "",
    ]
    for section in KEYS:
        lines += [f"## {section.title}", "", section.says, "", *_table(section), ""]
    return "\n".join(lines)


def _site_profile() -> str:
    lines = [
        NOTE,
        "# Site profile",
        "",
        "`conf/sites/<site>.yaml` says what differs from one cluster to the next; `SITE=<site>` chooses it.",
        "Each key can be given for once: `python -m cluster up --site slurm --nodes 2 time=04:00:00`. A key that",
        "is left out leaves the choice to the scheduler, or to the machine. [How to write one](../how-to/new-site.md).",
        "",
    ]
    return "\n".join([*lines, *_table(PageSection("", Site, "", ("sites/slurm.yaml",))), ""])


def _table(section: PageSection) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    beside = {key: text for name in reversed(section.specs) for key, text in _spec_comments(REPOSITORY / "conf" / name)}
    yield from _rows(section.model, "", beside, {})


def _rows(model: type[BaseModel], prefix: str, beside: dict[str, str], seen: dict[type, str]) -> Iterator[str]:
    seen[model] = prefix.rstrip(".")
    heads, comments = _field_comments(model)
    for name, field in model.model_fields.items():
        if name in heads:
            yield f"| **{_cell(heads[name])}** | | | |"
        key, group = prefix + name, _group(field)
        if group in seen and group:
            yield f"| `{key}` | keys as in `{seen[group]}` | | {_cell(_meaning(key))} |"
            continue
        meaning = comments.get(name) or _meaning(key) or beside.get(key) or (_summary(group) if group else "")
        if group is None or field.default is None:
            yield f"| `{key}` | {_cell(_kind(field))} | {_cell(_default(field))} | {_cell(meaning)} |"
        if group:
            yield from _rows(group, f"{key}.", beside, seen)


def _meaning(key: str) -> str:
    return MEANINGS.get(key) or MEANINGS.get(key.rpartition(".")[2], "")


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").partition("\n\n")[0].split()).rstrip(".")


def _group(field: FieldInfo) -> type[BaseModel] | None:
    """The model of the keys below, where a field is a group of keys."""
    inner = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else ()
    for found in (field.annotation, *inner):
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "empty" if value in ("", [], {}) else f"`{value}`"


def _kind(field: FieldInfo) -> str:
    if _group(field):
        return "keys below"
    return _in_words(field.annotation, field.metadata)


def _in_words(kind: Any, limits: Sequence[Any] = ()) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _in_words(inner[0], [*inner[1:], *limits])
    if origin in (Union, UnionType):
        return " or ".join(_in_words(one, limits) for one in inner if one is not NoneType)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin is list:
        return f"list of {_in_words(inner[0])}"
    if origin is dict:
        return "names and values" if inner[1] is not StepSpec else "names and steps"
    names = {str: "text", bool: "`true`, `false`", int: "whole number", float: "number", Path: "file", Any: "any value"}
    return names[kind] + _bounds(limits)


def _bounds(limits: Sequence[Any]) -> str:
    words: list[str] = []
    for limit in limits:
        for kind, attribute, word in (
            (annotated_types.Gt, "gt", "above"),
            (annotated_types.Ge, "ge", "at least"),
            (annotated_types.Le, "le", "at most"),
            (annotated_types.Lt, "lt", "below"),
        ):
            if isinstance(limit, kind):
                words.append(f"{word} {getattr(limit, attribute)}")
    return f" {', '.join(words)}" if words else ""


# --- comments ---


def _field_comments(model: type[BaseModel]) -> tuple[dict[str, str], dict[str, str]]:
    """Of each field: the heading over it (a comment line that begins small), and what it means."""
    heads: dict[str, str] = {}
    meanings: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel) and owner.__module__.partition(".")[0] in ("cluster", "orchestrator", "jobs"):
            _read_class(textwrap.dedent(inspect.getsource(owner)), heads, meanings)
    return heads, meanings


def _read_class(source: str, heads: dict[str, str], meanings: dict[str, str]) -> None:
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        inside = [
            comments[line] for line in range(node.lineno, (node.end_lineno or node.lineno) + 1) if line in comments
        ]
        above = comments.get(node.lineno - 1, "") if _stands_alone(source, node.lineno - 1) else ""
        if inside or above[:1].isupper():
            meanings[node.target.id] = inside[0] if inside else above
        if above and not above[:1].isupper():
            heads[node.target.id] = above


def _stands_alone(source: str, line: int) -> bool:
    return source.splitlines()[line - 1].lstrip().startswith("#")


def _spec_comments(path: Path) -> Iterator[tuple[str, str]]:
    """Dotted keys of a spec, given or commented out, with the comments beside them."""
    above: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = KEY.match(re.sub(r"^( *)# (?=[\w-]+: )", r"\1", line))
        if not found:
            continue
        depth = len(found[1])
        above = [(indent, name) for indent, name in above if indent < depth]
        above.append((depth, found[2]))
        if found[3]:
            yield ".".join(name for _, name in above), found[3]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


if __name__ == "__main__":
    main()
