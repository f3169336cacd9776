"""Figures to Weights & Biases, when the spec names a project. Never required: a tracker that fails costs a warning."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import secrets
from orchestrator.console import say
from orchestrator.files import write_atomic
from orchestrator.spec import SpecModel, WandbSpec, first_line

if TYPE_CHECKING:
    from wandb import Run

INIT_TIMEOUT = 30  # seconds, of wandb's 90: the GPUs of a training wait meanwhile
FINISH_TIMEOUT = 60  # seconds; wandb would wait for a server that is gone as long as it takes
FLUSH_INTERVAL = 2  # seconds, of wandb's 15: what a killed trainer had not written is lost to an offline run


def usable_mode(mode: str) -> str:
    """`mode`, or `offline`, and said so, where there is no key to be online with."""
    if mode == "online" and not secrets.find("WANDB_API_KEY"):
        say("wandb: WANDB_API_KEY is not set (environment or ~/.kosen/secrets.env); writing offline")
        return "offline"
    return mode


def track(
    folder: Path, project: str, entity: str | None, mode: str, config: SpecModel, figures: dict[str, Any]
) -> None:
    """Send one run's spec and figures; `mode="offline"` writes them below `folder` for `wandb sync`."""
    secrets.load_into_environment()
    mode = usable_mode(mode)
    with optional(f"not tracked; the figures are in {folder}/metrics.json"):
        written = "offline" if mode == "offline" else "online"
        run = _open(folder, project, entity, mode=written, config=config.model_dump(mode="json"))
        run.summary.update(figures)
        run.finish()
        wait_for_service()


def _open(folder: Path, project: str, entity: str | None, **more: Any) -> "Run":
    import wandb

    return wandb.init(
        project=project,
        entity=entity,
        name=folder.name,
        dir=folder,
        settings=wandb.Settings(silent=True, init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT),
        **more,
    )


@contextmanager
def optional(otherwise: str) -> Iterator[None]:
    """An error of wandb in this block is a warning that ends with `otherwise`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - wandb's errors have no common base, and none may end a job
        say(f"warning: wandb: {first_line(error)}; {otherwise}")


def wait_for_service() -> None:
    """Offline, wandb's service (0.31) still writes when `finish` has returned, and a worker's end may be a kill."""
    import wandb

    wandb.teardown()


def continued(folder: Path, spec: WandbSpec) -> dict[str, str]:
    """The variables by which every attempt at a training, of this job and of later ones, adds to one wandb run.

    Where earlier attempts wrote offline, the next ones do too until those are sent: `wandb sync` sends the folders of
    the attempts one after the other, and puts steps that come too late behind the newest one.
    """
    if not spec.project:
        return {}
    mode = usable_mode(spec.mode)
    if mode == "online" and unsent(folder):
        say(f"wandb: earlier steps are not sent, so the next are written offline too. To send them: {_sync(folder)}")
        mode = "offline"
    return {
        "WANDB_MODE": mode,
        "WANDB_RUN_ID": _run_id(folder),
        "WANDB_RESUME": "allow",  # a new run with this id, or on from the last step of the one that there is
        "WANDB_DIR": str(folder),
        "WANDB_SILENT": "true",
        "WANDB_INIT_TIMEOUT": str(INIT_TIMEOUT),
        "WANDB_FINISH_TIMEOUT": str(FINISH_TIMEOUT),
        "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": str(FLUSH_INTERVAL),
    } | ({"WANDB_ENTITY": spec.entity} if spec.entity else {})


def catch_up(run: "Run", steps: Mapping[int, Mapping[str, float]]) -> None:
    """Logs the steps missing from a resumed run: a killed attempt may not have sent its last ones."""
    for step in sorted(steps):
        if step >= run.starting_step:
            run.log(dict(steps[step]), step=step)


def send_rest(folder: Path, spec: WandbSpec, steps: Mapping[int, Mapping[str, float]]) -> None:
    """Send what the run of a training lacks of its `steps`, when no other attempt will."""
    if not spec.project or usable_mode(spec.mode) == "offline" or unsent(folder):
        return
    secrets.load_into_environment()
    with optional(f"the last steps may be missing; they are in {folder}"):
        run = _open(folder, spec.project, spec.entity, id=_run_id(folder), resume="allow")
        catch_up(run, steps)
        run.finish()


def remind(folder: Path) -> None:
    """Say how to send what was written offline, if anything was."""
    if unsent(folder):
        say(f"wandb: figures were written offline. To send them, as one run: {_sync(folder)}")


def unsent(folder: Path) -> bool:
    """Whether a run folder has offline figures that `wandb sync` has not sent."""
    written = (folder / "wandb").glob("offline-run-*/*.wandb")
    return any(not path.with_suffix(".wandb.synced").exists() for path in written)


def _sync(folder: Path) -> str:
    return f"wandb sync {folder}/wandb/offline-run-*"


def _run_id(folder: Path) -> str:
    """Made once for a run folder, and kept in it. The caller holds the folder's lock."""
    path = folder / "wandb_run_id"
    if not path.exists():
        write_atomic(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()
