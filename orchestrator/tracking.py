"""Figures to Weights & Biases, when the spec names a project. Never required: a tracker that fails costs a warning."""

from pathlib import Path
from typing import Any

from orchestrator import secrets
from orchestrator.progress import say
from orchestrator.spec import SpecModel, first_line


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
    import wandb

    secrets.load_into_environment()
    mode = usable_mode(mode)
    try:
        run = wandb.init(
            project=project,
            entity=entity,
            name=folder.name,
            dir=folder,
            mode="offline" if mode == "offline" else "online",
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True),
        )
        run.summary.update(figures)
        run.finish()
    except (wandb.Error, OSError) as error:
        say(f"wandb: not tracked ({first_line(error)}); the figures are in {folder}/metrics.json")
