"""Merges a run's checkpoint into a Hugging Face folder: finds the run, picks the step, runs merging.py, seals it."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf
from pydantic import Field, NonNegativeInt

from cluster.files import expanded
from orchestrator.console import say
from orchestrator.errors import KosenError, RunLocked, SpecError, TrainingFailed, storage_error
from orchestrator.ray_cluster.find import run_root
from orchestrator.spec import SpecModel
from orchestrator.training.checkpoints.checkpoints import check, newest_good, path_of
from orchestrator.training.folder import TrainingFolder, read_journal

MARK = "kosen-merge.json"  # in a merged folder, written last: which checkpoint it holds
SAVED = "saved"
GIGABYTE = 1e9


class MergeSpec(SpecModel):
    run: str = Field(min_length=1)  # a run's name, or its folder
    step: NonNegativeInt | None = None  # null: the newest whole checkpoint
    out: str | None = None  # null: exports/global_step_<step> in the run's folder
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # auto: what the base model came in


def merge(spec: MergeSpec) -> Path:
    """Merge what `spec` names, unless that is done already; returns the folder."""
    run = find_run(spec.run)
    step = _choose_step(run, spec.step)
    out = expanded(spec.out).absolute() if spec.out else run.path / "exports" / f"global_step_{step}"
    base = _base_model(run)
    wanted = {"run": str(run.path), "step": step, "dtype_asked": spec.dtype, SAVED: _saved_at(run, step)}
    with _lock(out):
        if _is_there(out, wanted):
            say(f"{out} is there already, from step {step}")
            return out
        checkpoint = path_of(run.checkpoints, step)
        actor = checkpoint / "actor"  # of PPO, whose critic is not served
        facts = _run_merger(actor if actor.is_dir() else checkpoint, out, base, spec.dtype, wanted, run)
    say(f"step {step} of {run.path.name}: {facts['parameters']:,} parameters in {facts['dtype']}, merged and checked")
    if facts["of_base"]:
        say(f"{', '.join(facts['of_base'])}: of {base}, since the checkpoint has none")
    return out


def find_run(name: str) -> TrainingFolder:
    """A run by its name below the run root, or by its folder."""
    folder = expanded(name)
    if not folder.is_absolute():
        folder = run_root() / name if (run_root() / name).is_dir() else folder.absolute()
    run = TrainingFolder(folder)
    if not run.checkpoints.is_dir():
        seen = "there is no such folder" if not folder.is_dir() else "it has no checkpoints"
        raise SpecError(f"run={name} is not a training run: {folder}: {seen}. Expected run= of jobs.sft or jobs.ppo")
    return run


def _choose_step(run: TrainingFolder, step: int | None) -> int:
    if step is None:
        step = newest_good(run.checkpoints)
        if step is None:
            raise SpecError(f"{run.checkpoints} has no whole checkpoint yet")
        return step
    wrong = check(path_of(run.checkpoints, step))
    if wrong:
        good = newest_good(run.checkpoints)
        raise SpecError(f"step={step}: {wrong}. The newest whole checkpoint is {'none' if good is None else good}")
    return step


def _base_model(run: TrainingFolder) -> str | None:
    """The model that the training started from, as its configuration names it."""
    try:
        config = OmegaConf.load(run.verl_config)
    except FileNotFoundError:
        return None
    keys = ("actor_rollout_ref.model.path", "model.path")
    return next((path for key in keys if (path := OmegaConf.select(config, key))), None)


def _is_there(out: Path, wanted: dict[str, Any]) -> bool:
    if not out.exists():
        return False
    try:
        found = json.loads((out / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SpecError(f"{out} exists and was not made by jobs.merge. Give another out=") from None
    differs = [name for name, value in wanted.items() if found.get(name) != value]
    if differs == [SAVED]:
        say(f"{out} is of an earlier training in the same run; it is merged again")
        return False
    if differs:
        name = differs[0]
        raise SpecError(f"{out} exists, from {name}={found.get(name)}, not {wanted[name]}. Give another out=")
    return True


def _saved_at(run: TrainingFolder, step: int) -> str | None:
    """When a checkpoint was saved, as the run's journal says: a run that is trained again saves the same step again."""
    lines = [line for line in read_journal(run) if line["event"] == "checkpoint" and line["step"] == step]
    return str(lines[-1]["time"]) if lines else None


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """One merge a folder at a time, whose draft then belongs to it alone."""
    path = out.with_name(f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    except OSError as error:
        raise storage_error(error, out) from None
    with stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunLocked(f"another jobs.merge writes {out}. Wait for it, or give another out=") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _run_merger(
    checkpoint: Path, out: Path, base: str | None, dtype: str, wanted: dict[str, Any], run: TrainingFolder
) -> dict[str, Any]:
    """Merge into a draft beside `out`, in a process of its own: verl's merger talks much and may run out of memory."""
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a merge that was killed
    weights = sum(path.stat().st_size for path in checkpoint.glob("model_world_size_*.pt"))
    say(f"merging {checkpoint}: {weights / GIGABYTE:.1f} GB of weights; as much memory is needed, half for 16 bits")
    run.logs.mkdir(exist_ok=True)
    log = run.logs / "merge.log"
    try:
        with log.open("wb") as stream:
            command = [sys.executable, "-m", "orchestrator.training.checkpoints.merging"]
            command += [str(checkpoint), str(draft), base or "", dtype, str(draft / MARK)]
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
            code = subprocess.run(command, stdout=stream, stderr=stream, env=environment, check=False).returncode
        if code:
            raise _failure(code, log, draft, out)
        facts: dict[str, Any] = json.loads((draft / MARK).read_text(encoding="utf-8")) | wanted
        (draft / MARK).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)  # what was made of an earlier save of this step, see _is_there
        draft.rename(out)
        return facts
    except OSError as error:
        raise storage_error(error, out) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _failure(code: int, log: Path, draft: Path, out: Path) -> KosenError:
    """What the merger said last; its draft is deleted, so the folder that was wanted is named."""
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
    last = last.replace(str(draft), str(out))
    if last.startswith("error: "):
        return (SpecError if code == SpecError.exit_code else TrainingFailed)(last.removeprefix("error: "))
    if code == -9:
        return TrainingFailed(
            "the merge was killed, most likely for its memory. Give it a node with more, or dtype=bfloat16"
        )
    return TrainingFailed(f"verl's merger ended with code {code}: {last}. All that it said is in {log}")
