"""Finds tasks: the modules of this folder that define `TASK`, and files of the user's own.

There is no table to be kept: a new module is a new task. `task=NAME` is a module here, `task=path/to/my_task.py` a file
that defines `TASK`, and `task=path/to/my_task.yaml` one that says in a few keys what `yaml_task` needs.
"""

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import cast

from jobs.tasks import yaml_task
from jobs.tasks.task import Task
from orchestrator.errors import SpecError
from orchestrator.ray_cluster.find import find_path

DEFAULT_TASK = "hle"
FOLDER = Path(__file__).parent
PACKAGE = "jobs.tasks"
ADVICE = "or the path of a file that defines one: my_task.py, my_task.yaml"
_DEFINES = re.compile(r"^TASK\b", re.MULTILINE)
_PREFIX = "kosen_task_"  # of the modules that users' files become
_MEMBERS = [name for name in (*Task.__annotations__, *vars(Task)) if not name.startswith("_")]


def task_names() -> list[str]:
    """The tasks of this folder."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if _defines_task(path))


def find_task(name: str) -> Task:
    """The task that a spec names. Raises SpecError with the names that there are, or with what is wrong in the file."""
    path = _file_of(name)
    if path.suffix in (".yaml", ".yml"):
        return yaml_task.read_task(path)
    module = _load(path) if path.parent != FOLDER else importlib.import_module(f"{PACKAGE}.{path.stem}")
    task = getattr(module, "TASK", None)
    missing = [member for member in _MEMBERS if not hasattr(task, member)]
    if task is None or missing:
        what = f"its TASK has no {', '.join(missing)}" if task is not None else "it defines no TASK"
        raise SpecError(f"{path} is not a task: {what}. Expected TASK = MyTask(), a class like jobs.tasks.task.Task")
    return cast(Task, task)


@cache
def code_of(name: str) -> list[Path]:
    """The files whose text decides what a task's rule says: its own, and all of this folder that these import."""
    path = _file_of(name)
    found = [path] if path.suffix == ".py" else [path, Path(yaml_task.__file__)]
    for file in found:  # which grows meanwhile
        if file.suffix == ".py":
            modules = (FOLDER / f"{module}.py" for module in _imports(file))
            found += [module for module in modules if module.is_file() and module not in found]
    return sorted(found)


def ship(task: Task) -> None:
    """Have Ray send the class of a task out of a user's file along with it: other processes cannot import that file."""
    module = sys.modules[type(task).__module__]
    if module.__name__.startswith(_PREFIX):
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(module)


def _file_of(name: str) -> Path:
    if "/" not in name and not name.endswith((".py", ".yaml", ".yml")):
        path = FOLDER / f"{name}.py"
        if not (name.isidentifier() and path.is_file() and _defines_task(path)):
            raise SpecError(f"there is no task {name!r}. Expected one of {', '.join(task_names())}, {ADVICE}")
        return path
    path = Path(find_path(name)).expanduser()
    if not path.is_file():
        raise SpecError(f"there is no file {path} (relative to {Path.cwd()}), which task= names")
    if path.suffix not in (".py", ".yaml", ".yml"):
        raise SpecError(f"task={name} is not a task's file. Expected a .py or .yaml file")
    return path.absolute()


def _defines_task(path: Path) -> bool:
    return _DEFINES.search(path.read_text(encoding="utf-8")) is not None


def _load(path: Path) -> ModuleType:
    """A user's file as a module, once for each text that it has. Raises SpecError with the line that raised."""
    name = _PREFIX + hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's file raises
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"line {lines[-1]}: " if lines else ""
        raise SpecError(f"cannot load the task {path}: {place}{type(error).__name__}: {error}") from None
    return module


def _imports(file: Path) -> set[str]:
    """The modules of this folder that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.removeprefix(f"{PACKAGE}.")}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix(f"{PACKAGE}.") for alias in node.names}
    return found
