"""verl's trackers, of which wandb continues one run over all attempts, and never ends a training."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from verl.utils.tracking import Tracking

from orchestrator.tracking import catch_up, optional, unsent, wait_for_service
from orchestrator.training.environment import training_folder
from orchestrator.training.folder import figures


def open_trackers(*, default_backend: str | list[str], **arguments: Any) -> Any:
    """In the place of verl's `Tracking(...)`, to be called before this attempt logs a step."""
    names = [default_backend] if isinstance(default_backend, str) else [*default_backend]
    tracking = Tracking(default_backend=[name for name in names if name != "wandb"], **arguments)
    if "wandb" in names:
        tracking.logger["wandb"] = Wandb(arguments)
    return tracking


class Wandb:
    """wandb among verl's trackers; the variables of `orchestrator.tracking.continued` say which run it continues.

    An attempt sends what a killed one had not, and does the steps since its checkpoint again; wandb drops the figures
    of a step that its server has. Offline it knows of none, and of two folders with the same step `wandb sync`
    renumbers the second (wandb 0.31). So there we leave out what an earlier attempt has logged.
    """

    def __init__(self, arguments: dict[str, Any]) -> None:
        folder = training_folder()
        assert folder, "the driver gives the run folder to all workers"
        self._untracked = f"not tracked from here on; the figures are in {folder.journal}"
        self._tracking: Tracking | None = None
        if unsent(folder.path):
            os.environ["WANDB_MODE"] = "offline"
        self._open(folder.path, arguments)
        steps, self._logged = figures(folder), -1
        if os.environ.get("WANDB_MODE") == "offline":
            self._logged = max(steps, default=-1)
        elif self._tracking:
            with optional("earlier steps may be missing"):
                catch_up(self._tracking.logger["wandb"].run, steps)

    def _open(self, folder: Path, arguments: dict[str, Any]) -> None:
        """Offline where the server does not answer, or refuses."""
        import wandb

        with optional(f"writing offline below {folder}/wandb"):
            self._tracking = Tracking(default_backend="wandb", **arguments)
            return
        os.environ["WANDB_MODE"] = "offline"
        with optional(self._untracked):
            wandb.teardown()  # its service holds the run that failed
            self._tracking = Tracking(default_backend="wandb", **arguments)

    def log(self, data: dict[str, Any], step: int) -> None:
        if self._tracking and step > self._logged:
            with optional(self._untracked):
                self._tracking.log(data=data, step=step)
                return
            broken, self._tracking = self._tracking, None
            with suppress(Exception):
                broken.finish()  # else verl does whenever Python collects it

    def finish(self, exit_code: int = 0) -> None:
        if self._tracking:
            with optional("its last figures may be missing"):
                self._tracking.finish(exit_code)
                wait_for_service()
