"""What Ray Train runs on each rank of a fine-tuning: the process made ready, then verl's trainer with our hooks."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from orchestrator import secrets
from orchestrator.errors import SpecError
from orchestrator.training.folder import TrainingFolder


@dataclass(frozen=True)
class RankOrder:
    """What the driver hands to each rank, over Ray's own channel."""

    folder: TrainingFolder
    environment: dict[str, str]  # verl reads it while it is imported
    secrets: dict[str, str] = field(repr=False)


def read_config(folder: TrainingFolder) -> tuple[DictConfig, int | None]:
    """verl's configuration, and how many checkpoints to keep (None: all). Raises SpecError where there is none."""
    try:
        config = OmegaConf.load(folder.verl_config)
    except FileNotFoundError:
        raise SpecError(f"{folder.path} is not a training's run folder: it has no {folder.verl_config.name}") from None
    assert isinstance(config, DictConfig)
    ours = config.pop("kosen", None) or {}
    return config, ours.get("keep_checkpoints")


def train(order: RankOrder) -> bool:
    """Train to the end or to the stop flag; whether it was the flag."""
    import ray.train

    folder = order.folder
    _write_output_to(folder.logs / f"rank-{ray.train.get_context().get_world_rank()}.log")
    os.chdir(folder.path)  # wandb and tensorboard write where they are
    os.environ.update(order.environment)
    secrets.remember(order.secrets)
    for name, value in order.secrets.items():
        os.environ.setdefault(name, value)
    secrets.load_into_environment()
    config, keep = read_config(folder)
    _choose_device(config.trainer.device)

    from orchestrator.training.trainer.sft_trainer import Trainer  # imports verl, which reads the environment

    return Trainer(config, folder, keep).run()


def _write_output_to(path: Path) -> None:
    """What this process prints, and what breaks it, where the user finds it, not in a session folder of Ray's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _choose_device(name: str) -> None:
    """One thread per reserved CPU, or the GPU that Ray gave to this rank."""
    import ray.train.torch
    import torch

    if name == "cpu":
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    else:
        torch.cuda.set_device(ray.train.torch.get_device())
