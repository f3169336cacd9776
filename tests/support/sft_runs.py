"""Small fine-tunings: a tiny model, a few rows that have a rule to learn, and verl's configuration for them."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from orchestrator.training.folder import TrainingFolder, read_journal
from tests.support.tiny_model import make_tiny_model

TRAIN_ROWS, VAL_ROWS, BATCH = 41, 16, 8  # five steps an epoch, and a row that fills no batch
STEPS_PER_EPOCH = TRAIN_ROWS // BATCH


def make_sft_data(folder: Path) -> Path:
    """`model/`, `train.parquet` and `val.parquet` in `folder`."""
    make_tiny_model(folder / "model")
    write_rows(folder / "train.parquet", TRAIN_ROWS)
    write_rows(folder / "val.parquet", VAL_ROWS)
    return folder


def write_rows(path: Path, count: int, *, padding: str = "") -> Path:
    """Sums, of which each has a length of its own; `padding` makes the question longer."""
    import pandas as pd

    sums = [(number % 7, number * number % 11) for number in range(count)]
    rows = [
        [
            {"role": "user", "content": f"{padding}{'+' * (number % 5)}{a}+{b}=?"},
            {"role": "assistant", "content": str(a + b)},
        ]
        for number, (a, b) in enumerate(sums)
    ]
    pd.DataFrame({"messages": rows}).to_parquet(path)
    return path


def sft_overrides(data: Path, folder: Path, processes: int) -> list[str]:
    """verl's keys for a run on CPUs."""
    fp32 = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
    return [
        f"model.path={data / 'model'}",
        "+model.override_config={attn_implementation:sdpa}",
        "model.use_remove_padding=False",
        "model.enable_gradient_checkpointing=False",
        "engine.strategy=fsdp2",
        "engine.use_torch_compile=False",
        f"+engine.mixed_precision={fp32}",
        f"data.train_files={data / 'train.parquet'}",
        f"data.val_files={data / 'val.parquet'}",
        f"data.train_batch_size={BATCH}",
        "data.micro_batch_size_per_gpu=4",
        "data.use_dynamic_bsz=False",
        "data.max_length=64",
        "data.max_token_len_per_gpu=128",
        "data.num_workers=0",
        "optim.lr=3e-3",
        "trainer.device=cpu",
        f"trainer.n_gpus_per_node={processes}",
        "trainer.logger=[console]",
        "trainer.total_epochs=2",
        "trainer.save_freq=1",
        "trainer.test_freq=5",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
    ]


def make_sft_run(
    data: Path, path: Path, *overrides: str, processes: int = 1, keep_checkpoints: int | None = None
) -> TrainingFolder:
    """A run folder whose `verl.yaml` is ready for the driver."""
    from hydra import compose, initialize_config_module

    folder = TrainingFolder(path)
    folder.checkpoints.mkdir(parents=True)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine", [*sft_overrides(data, path, processes), *overrides])
    resolved: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    resolved["kosen"] = {"keep_checkpoints": keep_checkpoints}
    OmegaConf.save(OmegaConf.create(resolved), folder.verl_config)
    return folder


def steps_done(folder: Path) -> list[int]:
    return [line["step"] for line in read_journal(TrainingFolder(folder)) if line["event"] == "step"]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]
