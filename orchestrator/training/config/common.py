"""Maps what SFT and PPO specs have in common to verl's configuration keys."""

import importlib.util
from typing import Any

from orchestrator.ray_cluster.find import local_path
from orchestrator.training.config.placement import Placement
from orchestrator.training.environment import PACKED
from orchestrator.training.folder import TrainingFolder
from orchestrator.training.spec import SftSpec, TrainingSpec

Keys = dict[str, Any]


def trainer_keys(spec: TrainingSpec, placement: Placement, folder: TrainingFolder, name: str) -> Keys:
    """What both of verl's trainers call by the same names."""
    return {
        "trainer.device": placement.device,
        "trainer.nnodes": placement.nodes,
        "trainer.n_gpus_per_node": placement.per_node,
        "trainer.total_epochs": spec.epochs,
        "trainer.total_training_steps": spec.max_steps,
        "trainer.save_freq": spec.save_every,
        "trainer.test_freq": (spec.validate_every or spec.save_every) if spec.val else -1,
        "trainer.default_local_dir": str(folder.checkpoints),
        "trainer.resume_mode": "auto",
        "trainer.logger": ["console", *(["wandb"] if spec.wandb.project else [])],
        "trainer.project_name": spec.wandb.project or "kosen",
        "trainer.experiment_name": folder.path.name or name,
    }


def model_keys(group: str, spec: TrainingSpec, placement: Placement, model: str | None = None) -> Keys:
    """A group of verl's HFModelConfig."""
    kind = attention(spec, placement)
    return {
        f"{group}.path": local_or_hub(model or spec.model),
        f"{group}.override_config": {"attn_implementation": kind},
        f"{group}.use_remove_padding": kind != "sdpa",  # which has no kernels for rows of various lengths
        f"{group}.enable_gradient_checkpointing": spec.gradient_checkpointing,
    }


def local_or_hub(name: str) -> str:
    """A folder's or file's absolute path, which holds on every node; a name on the hub as it is."""
    path = local_path(name)
    return str(path.absolute()) if path.exists() else name


def lora_keys(group: str, spec: TrainingSpec) -> Keys:
    if spec.lora is None:
        return {}
    return {
        f"{group}.lora_rank": spec.lora.rank,
        f"{group}.lora_alpha": spec.lora.alpha,
        f"{group}.target_modules": spec.lora.target_modules,
    }


def engine_keys(group: str, spec: TrainingSpec, placement: Placement) -> Keys:
    """A group of verl's FSDPEngineConfig: fsdp2 with float32 weights, of which FSDP1 cannot do CPUs."""
    short = "bf16" if dtype(spec, placement) == "bfloat16" else "fp32"
    keys: Keys = {f"{group}.mixed_precision": {"param_dtype": short, "reduce_dtype": "fp32", "buffer_dtype": "fp32"}}
    if placement.device == "cpu":
        keys[f"{group}.use_torch_compile"] = False  # it would compile for minutes what runs for seconds
    return keys


def attention(spec: TrainingSpec, placement: Placement) -> str:
    """The kernel, as transformers calls it; `packed_sdpa` is ours."""
    if spec.attention == "flash_attention_2" or (
        spec.attention == "auto" and placement.device == "cuda" and _flash_attention_is_installed()
    ):
        return "flash_attention_2"
    return PACKED if packs(spec, placement) else "sdpa"


def packs(spec: TrainingSpec, placement: Placement) -> bool:
    """Whether rows lie one after the other, without padding."""
    if isinstance(spec, SftSpec) and spec.packing != "auto":
        return spec.packing
    return placement.device == "cuda" and spec.attention != "sdpa"


def _flash_attention_is_installed() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def dtype(spec: TrainingSpec, placement: Placement) -> str:
    if spec.dtype != "auto":
        return spec.dtype
    return "bfloat16" if placement.device == "cuda" else "float32"


def reasons(spec: TrainingSpec, placement: Placement) -> list[str]:
    """What was decided by the device, for `--dry-run`."""
    where = "on GPUs" if placement.device == "cuda" else "on CPUs"
    lines = []
    if spec.dtype == "auto":
        lines.append(f"dtype:     {dtype(spec, placement)} ({where})")
    if spec.attention == "auto":
        missing = placement.device == "cuda" and not _flash_attention_is_installed()
        why = f"{where}, flash-attn is not installed" if missing else where
        rows = "packed" if packs(spec, placement) else "padded"
        lines.append(f"attention: {attention(spec, placement)}, rows {rows} ({why})")
    return lines


def divisor(total: int, most: int) -> int:
    """The largest divisor of `total` that is at most `most`: verl wants micro batches of one size."""
    return next(size for size in range(max(1, min(most, total)), 0, -1) if total % size == 0)
