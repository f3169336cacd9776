"""Maps SftSpec to verl's configuration keys."""

from orchestrator.errors import SpecError
from orchestrator.planning.shape import read_shape
from orchestrator.serving.options import read_config
from orchestrator.training.config.common import (
    Keys,
    divisor,
    dtype,
    engine_keys,
    local_or_hub,
    lora_keys,
    model_keys,
    packs,
    trainer_keys,
)
from orchestrator.training.config.placement import Placement
from orchestrator.training.config.verl_config import dotted
from orchestrator.training.folder import TrainingFolder
from orchestrator.training.spec import SftSpec

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
