"""Checkpoints that can be trusted: sealed when complete, checked before use, kept few, never lost to a bad one.

verl saves into `global_step_<N>/` file by file, so a killed save looks like a checkpoint. The seal, `kosen.json` with
the size of each file, is written last: what has none was never complete. Nothing here reads whole files; a checkpoint
may have terabytes.
"""

import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from orchestrator.errors import storage_error
from orchestrator.files import write_atomic

SEAL = "kosen.json"
TRACKER = "latest_checkpointed_iteration.txt"  # verl's: the step that `resume_mode=auto` resumes from
STEP = re.compile(r"global_step_(0|[1-9][0-9]*)")  # as verl writes it; global_step_007 is a user's own folder
# A killed save or a killed prune leaves these; no one can use them.
LEFTOVER = re.compile(r"global_step_(\d+)\.(partial-\d+|deleting)")


def seal(folder: Path) -> None:
    """Bring every file of a complete checkpoint to the disk, then write its seal. Raises OSError."""
    _seal_path(folder).unlink(missing_ok=True)  # of an earlier save of this step
    sizes = {str(path.relative_to(folder)): _sync(path) for path in _files(folder)}
    for part in [path for path in folder.rglob("*") if path.is_dir()]:
        _sync(part)
    draft = folder / f".{SEAL}.{os.getpid()}"
    draft.write_bytes(orjson.dumps(sizes, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
    _sync(draft)
    draft.replace(_seal_path(folder))
    _sync(folder)
    _sync(folder.parent)


def check(folder: Path) -> str | None:
    """None where a checkpoint is whole, else a sentence that says what is wrong with it."""
    try:
        sizes = orjson.loads(_seal_path(folder).read_bytes())
    except FileNotFoundError:
        return f"{folder.name} has no seal ({SEAL}): its save did not finish"
    except (OSError, orjson.JSONDecodeError) as error:
        return f"the seal of {folder.name} cannot be read: {error}"
    if not isinstance(sizes, dict):
        return f"the seal of {folder.name} cannot be read: it has no sizes of files"
    if not sizes:
        return f"{folder.name} holds no files"
    faults = (fault for name, size in sizes.items() if (fault := _fault(folder / name, size)))
    fault = next(faults, None)
    return f"{folder.name} is damaged: {fault}" if fault else None


def newest_good(root: Path, before: float = math.inf) -> int | None:
    """The newest step, before step `before`, whose checkpoint below `root` is whole. Changes nothing."""
    return next((step for step in _steps(root) if step < before and check(path_of(root, step)) is None), None)


def choose(root: Path) -> tuple[int | None, list[str]]:
    """Decide which step verl resumes from, and say in sentences which checkpoints were set aside for that.

    verl's tracker file names that step afterwards; without any good checkpoint there is none. Raises StorageFailed.
    """
    remarks: list[str] = []
    for step in _steps(root):
        folder = path_of(root, step)
        why = check(folder)
        if why is None:
            write_atomic(root / TRACKER, str(step))
            return step, remarks
        remarks.append(set_aside(folder, why))
    (root / TRACKER).unlink(missing_ok=True)
    return None, remarks


def set_aside(folder: Path, why: str) -> str:
    """Rename a checkpoint so that no training resumes from it, and say so in a sentence. It is kept as evidence.

    A save that did not finish becomes `.partial-<n>`, which `prune` removes once there is a newer checkpoint. Raises
    StorageFailed.
    """
    kind = "bad" if _seal_path(folder).exists() else "partial"
    names = (folder.with_name(f"{folder.name}.{kind}-{number}") for number in range(1, 10_000))
    target = next(path for path in names if not path.exists())
    try:
        folder.rename(target)
    except OSError as error:
        raise storage_error(error, folder) from error
    return f"{why}; it is set aside as {target.name}"


def prune(root: Path, keep: int | None) -> None:
    """Remove all sealed checkpoints but the `keep` newest (None: all are kept) and the newest whole one.

    What killed saves and killed prunes left behind goes too, if it is older than the newest sealed checkpoint. A folder
    is renamed first, so that a prune killed half way leaves nothing that looks like a checkpoint.
    """
    steps = list(_steps(root))
    sealed = [step for step in steps if _seal_path(path_of(root, step)).exists()]
    if not sealed:
        return
    kept = {*sealed[:keep], newest_good(root)}
    for step in steps:
        if step < sealed[0] and step not in kept:
            folder = path_of(root, step)
            folder.rename(folder.with_name(f"{folder.name}.deleting"))
    for folder in list(root.iterdir()):
        leftover = LEFTOVER.fullmatch(folder.name)
        if leftover and int(leftover[1]) <= sealed[0]:
            shutil.rmtree(folder, ignore_errors=True)  # what is still open somewhere goes with the next prune


def path_of(root: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return root / f"global_step_{step}"


def _steps(root: Path) -> Iterator[int]:
    """All steps with a folder, newest first, sealed or not."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    yield from sorted((int(found[1]) for name in names if (found := STEP.fullmatch(name))), reverse=True)


def _seal_path(folder: Path) -> Path:
    return folder / SEAL


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> int:
    """Bring a file or a folder to the disk and return its size. Opening asks a network file system for the latest."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _fault(path: Path, size: int) -> str | None:
    try:
        found = path.stat().st_size
        if found != size:
            return f"{path.name} has {found} bytes, {size} when it was saved"
        if path.suffix == ".pt":  # torch writes zip files, whose directory stands at the end
            zipfile.ZipFile(path).close()
    except FileNotFoundError:
        return f"{path.name} is missing"
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:  # zipfile's complaints
        return f"{path.name} cannot be read ({error})"
    return None
