"""One checkpoint of verl's FSDP → one Hugging Face folder, with verl's own merger: `python -m …merging` (see `main`).

verl's merger rounds all weights to bfloat16, holds every shard in memory, and leaves LoRA beside the base model. Here
the weights keep the wanted precision, shards are mapped from the disk, so that only the merged model is held, and
adapters are added to the weights, since that is what every engine loads.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger, merge_non_dtensor_shards

from cluster.files import expanded
from orchestrator.errors import SpecError, TrainingFailed, run_command
from orchestrator.training.checkpoints.model_files import has_tokenizer

DType = Literal["auto", "bfloat16", "float16", "float32"]
BASE, LORA_A, LORA_B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
PEFT_PREFIX = "base_model.model."


class Merger(FSDPModelMerger):
    """verl's merger, in the wanted precision and with adapters added to the weights."""

    def __init__(self, config: ModelMergerConfig, dtype: torch.dtype) -> None:
        super().__init__(config)
        self.model_config._attn_implementation = None  # the training's, perhaps one that only the training knows
        self._folder = Path(str(config.local_dir))
        self._dtype = dtype

    def _load_rank_zero_state_dict(self, world_size: int) -> dict[str, Any]:
        """Overrides verl's, which keeps what it loads here until the end."""
        return self._shard(world_size, 0)

    def _load_and_merge_state_dicts(self, world_size: int, total_shards: int, *mesh: Any) -> dict[str, torch.Tensor]:
        """Overrides verl's. `total_shards` ranks hold each piece of the model once; further ranks are copies."""
        shards = [self._shard(world_size, rank) for rank in range(total_shards)]
        self._refuse_unknown_adapters(shards[0])
        merged = {
            name.removeprefix(PEFT_PREFIX).replace(BASE, "."): self._rounded(self._weight(shards, name))
            for name in shards[0]
            if not name.endswith((LORA_A, LORA_B))
        }
        self._refuse_a_head_that_would_be_lost(merged)
        return merged

    def _shard(self, world_size: int, rank: int) -> dict[str, Any]:
        path = self._folder / f"model_world_size_{world_size}_rank_{rank}.pt"
        return dict(torch.load(path, map_location="cpu", mmap=True, weights_only=True))

    def _weight(self, shards: list[dict[str, Any]], name: str) -> torch.Tensor:
        """A whole tensor; of one that LoRA adapts, W + alpha / r * B A (Hu et al. 2021), summed in float32."""
        whole = self._join(shards, name)
        module = name.removesuffix(f"{BASE}weight")
        if module + LORA_A not in shards[0] or module == name:
            return whole
        meta: dict[str, Any] = self._load_lora_train_meta() or {}
        if not meta.get("lora_alpha") or not meta.get("r"):
            raise SpecError(f"{self._folder} has adapters, but no lora_train_meta.json with r and lora_alpha")
        down, up = (self._join(shards, module + part).float() for part in (LORA_A, LORA_B))
        return whole.float().addmm_(up, down, alpha=meta["lora_alpha"] / meta["r"])

    def _rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def _join(self, shards: list[dict[str, Any]], name: str) -> torch.Tensor:
        parts = [shard[name] for shard in shards]
        if not isinstance(parts[0], DTensor):
            return merge_non_dtensor_shards(name, parts)
        placement = parts[0].placements[-1]  # of several dimensions the last is the sharded one, the first a copy
        return self._merge_by_placement([part.to_local() for part in parts], placement)

    def _refuse_a_head_that_would_be_lost(self, merged: dict[str, torch.Tensor]) -> None:
        """Where the config ties the head to the embeddings, only one of the two is written."""
        head = next((tensor for name, tensor in merged.items() if name.endswith("lm_head.weight")), None)
        embedded = next((tensor for name, tensor in merged.items() if name.endswith("embed_tokens.weight")), None)
        tied = getattr(self.model_config, "tie_word_embeddings", False)
        if tied and head is not None and embedded is not None and not torch.equal(head, embedded):
            raise SpecError(
                f"{self._folder} holds a head of its own, but its config ties the head to the embeddings, so it would "
                "be lost. Set tie_word_embeddings to false in its huggingface/config.json"
            )

    def _refuse_unknown_adapters(self, shard: dict[str, Any]) -> None:
        adapted = [name for name in shard if "lora_" in name or "modules_to_save" in name]
        unknown = [name for name in adapted if not name.endswith((LORA_A, LORA_B))]
        if unknown:
            raise SpecError(
                f"the adapter {unknown[0]} is of a kind that cannot be merged. Expected LoRA of linear layers"
            )
        if adapted and not any(BASE in name for name in shard):
            raise SpecError(f"{self._folder} holds adapters without the base model. Train without save_lora_only")


def merge(checkpoint: Path, target: Path, base: str | None, dtype: DType) -> dict[str, Any]:
    """Write `target`, whole and checked; returns its `dtype`, number of `parameters` and what is `of_base`.

    `auto` is the precision of the model `base`, else of the checkpoint. Tokenizer, chat template and generation
    settings that the checkpoint lacks are those of `base`. Raises SpecError and TrainingFailed.
    """
    saved = checkpoint / "huggingface"
    tokenizer, of_base = find_tokenizer(saved, base)
    name = _dtype_of(base, checkpoint) if dtype == "auto" else dtype
    config = ModelMergerConfig(
        operation="merge",
        backend="fsdp",
        local_dir=str(checkpoint),
        target_dir=str(target),
        hf_model_config_path=str(saved),
    )
    merger = Merger(config, getattr(torch, name))
    merger.merge_and_save()
    tokenizer.save_pretrained(target)
    of_base += _settle_generation(target, base)
    _settle(target, name)
    model_class = merger.get_transformers_auto_model_class()
    parameters = check(target, model_class, getattr(torch, name))
    return {"dtype": name, "parameters": parameters, "of_base": of_base}


def find_tokenizer(saved: Path, base: str | None) -> tuple[Any, list[str]]:
    """The tokenizer of a checkpoint's `huggingface` folder, and what of it had to be the base model's.

    transformers makes a tokenizer of a single token out of a folder that has none. Raises SpecError where neither the
    checkpoint nor the base model has one.
    """
    theirs = _tokenizer_of(base) if base else None
    if not has_tokenizer(path.name for path in saved.glob("*")):
        if theirs is None:
            raise SpecError(
                f"{saved} has no tokenizer, and the base model {base or '(not named)'} cannot give one. Copy its "
                "tokenizer files there, then merge again"
            )
        return theirs, ["tokenizer"]
    ours = AutoTokenizer.from_pretrained(saved)
    if ours.chat_template is None and theirs is not None and theirs.chat_template is not None:
        ours.chat_template = theirs.chat_template
        return ours, ["chat template"]
    return ours, []


def _tokenizer_of(base: str) -> Any | None:
    """The base model's tokenizer; None where it moved, has none, or is on the hub and the hub is far."""
    folder = expanded(base)
    if folder.is_dir() and not has_tokenizer(path.name for path in folder.glob("*")):
        return None
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError):
        return None


def _settle_generation(target: Path, base: str | None) -> list[str]:
    """verl keeps the checkpoint's generation settings; without them transformers writes its own defaults."""
    try:
        theirs = GenerationConfig.from_pretrained(base) if base else None
    except (OSError, ValueError):
        return []
    path = target / "generation_config.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if theirs is None or set(theirs.to_diff_dict()) - {"transformers_version"} <= set(kept):
        return []
    theirs.save_pretrained(target)
    return ["generation settings"]


def check(folder: Path, model_class: Any, dtype: torch.dtype) -> int:
    """Reopen a merged folder; the number of its parameters. Raises TrainingFailed unless all of the model is there."""
    tokens = len(AutoTokenizer.from_pretrained(folder))
    with torch.device("meta"):
        model = model_class.from_config(AutoConfig.from_pretrained(folder))
    rows = model.get_input_embeddings().weight.shape[0]
    if tokens > rows:
        raise TrainingFailed(f"{folder} has a tokenizer of {tokens:,} tokens, but embeddings for {rows:,}")
    model.tie_weights()
    expected = {id(tensor): tensor.numel() for tensor in model.state_dict(keep_vars=True).values()}
    found = 0
    for name, tensor in _tensors(folder):
        found += tensor.numel()
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise TrainingFailed(f"{folder}: {name} is {tensor.dtype}, expected {dtype}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise TrainingFailed(
                f"{name} has values that are not finite: this checkpoint is from a training that diverged"
            )
    if found != sum(expected.values()):
        raise TrainingFailed(f"{folder} has {found:,} parameters, expected {sum(expected.values()):,}")
    return found


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.offset_keys())


def _dtype_of(base: str | None, checkpoint: Path) -> str:
    """Trainers hold weights in float32 whatever they came in, and say so in the checkpoint's config."""
    for model in (base, str(checkpoint / "huggingface")):
        try:
            config = AutoConfig.from_pretrained(model) if model else None
        except (OSError, ValueError):  # the base model moved, or it is on the hub and the hub is far
            continue
        dtype = getattr(config, "dtype", None)
        if dtype is not None:
            return str(dtype).removeprefix("torch.")
    return "bfloat16"


def _settle(target: Path, dtype: str) -> None:
    """verl writes bfloat16 into the config, and what the training computed attention with; neither is the model's."""
    path = target / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("attn_implementation", None)
    for part in (config, *(value for value in config.values() if isinstance(value, dict) and "dtype" in value)):
        part["dtype"] = dtype
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for weights in target.glob("*.safetensors"):
        weights.chmod(path.stat().st_mode)  # safetensors' own is for the owner only, and models are shared in a lab


def main() -> int:
    """Arguments: a checkpoint, the folder to write, the base model or "", the precision, a file for the facts."""
    checkpoint, target, base, dtype, facts = sys.argv[1:]
    done = merge(Path(checkpoint), Path(target), base or None, dtype)  # type: ignore[arg-type]
    Path(facts).write_text(json.dumps(done), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_command(main)
