"""A fine-tuning's spec in verl's keys."""

import importlib.util
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.planning.shape import read_shape
from orchestrator.ray_cluster.find import local_path
from orchestrator.serving.options import read_config
from orchestrator.training.config.placement import Placement
from orchestrator.training.config.verl_config import dotted
from orchestrator.training.environment import PACKED
from orchestrator.training.folder import TrainingFolder
from orchestrator.training.spec import SftSpec, TrainingSpec

Keys = dict[str, Any]

SHARDED_BYTES = 16  # a parameter, on all GPUs together: weight, gradient and AdamW's two moments in float32
WHOLE_BYTES = {"bfloat16": 6, "float32": 8}  # a parameter, on each GPU: the weight, and a gradient in float32
STATE_SHARE = 0.5  # of a GPU's memory, for all of those; the rest is for activations and logits


def sft_keys(spec: SftSpec, placement: Placement, folder: TrainingFolder) -> Keys:
    """verl's dotted keys of `sft_trainer_engine`."""
    return {
        **model_keys("model", spec, placement),
        **lora_keys("model", spec),
        **engine_keys("engine", spec, placement),
        "engine.strategy": "fsdp2",
        "engine.seed": spec.seed,
        **_sharing(spec, placement),
        "data.train_files": str(folder.data / "train.parquet"),
        "data.val_files": str(folder.data / "val.parquet") if spec.val else None,
        "data.train_batch_size": spec.batch_size,
        "data.micro_batch_size_per_gpu": divisor(spec.batch_size // placement.workers, spec.micro_batch_size),
        "data.use_dynamic_bsz": packs(spec, placement),
        "data.max_token_len_per_gpu": spec.max_tokens_per_gpu,
        "data.max_length": spec.max_length,
        # Templates of thinking models render a last answer in another way than verl does, turn by turn.
        "data.ignore_input_ids_mismatch": True,
        "data.num_workers": 0 if placement.device == "cpu" else 2,  # processes that tokenize, of each worker
        "optim.lr": spec.lr,
        **_optimizer(spec, placement),
        **trainer_keys(spec, placement, folder, spec.run_name),
        "trainer.seed": spec.seed,
    }


def _sharing(spec: SftSpec, placement: Placement) -> Keys:
    """Whether each process keeps all weights and gradients from one micro batch to the next.

    It does where there is room: gathering and reducing them for each micro batch cost 9 % of a step on two H200s.
    """
    whole = placement.workers == 1 or _has_room(spec, placement)
    return {"engine.reshard_after_forward": not whole, "engine.use_no_sync_for_gradient_accumulation": whole}


def _has_room(spec: SftSpec, placement: Placement) -> bool:
    """False too where the GPU or the model is not known, and in ways of training that were not measured with it."""
    offloads = any(key.startswith("engine.") and "offload" in key for key in dotted(spec.verl))
    if placement.gpu_memory is None or spec.lora or offloads:
        return False
    try:
        config = read_config(local_or_hub(spec.model), "the memory of a training", "check it")
        parameters = read_shape(config.to_dict(), spec.model).parameters.total
    except SpecError:
        return False
    each = SHARDED_BYTES / placement.workers + WHOLE_BYTES[dtype(spec, placement)]
    return parameters * each <= STATE_SHARE * placement.gpu_memory


def _optimizer(spec: SftSpec, placement: Placement) -> Keys:
    """AdamW in one kernel, which reads and writes the weights once; another optimizer may not know the word."""
    if placement.device == "cpu" or any(key.startswith("optim.optimizer") for key in dotted(spec.verl)):
        return {}
    return {"optim.override_optimizer_config": {"fused": True}}


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
