"""Bytes of a model's weights: by parameter count and precision, or as its safetensors files say."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.planning.shape import Shape

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of a parameter in each group, and a factor for what the files say more or less than the count."""

    dense: float  # bytes a parameter: embeddings, norms, routers, and all of a model that is not quantised
    attention: float
    mlp: float
    experts: float
    value: float  # bytes of a value outside the weights: activations, the KV cache unless a dtype is given
    block: int  # widths must be multiples of it on each GPU, 1 without block scales
    source: str  # where the total comes from
    factor: float = 1.0

    def layer_bytes(self, shape: Shape, tensor_parallel_size: int = 1, experts_used: float = 1.0) -> float:
        """Bytes of all layers on each GPU of a tensor parallel group, without embeddings; of the routed experts only
        the share `experts_used`."""
        p, size = shape.parameters, tensor_parallel_size
        divided = (p.attention * self.attention + p.mlp * self.mlp + p.experts * self.experts * experts_used) / size
        kv = p.kv * self.attention / min(size, shape.kv_heads)
        everywhere = p.replicated * self.attention + (p.routers + p.norms) * self.dense
        return (divided + kv + everywhere) * self.factor

    def gpu_bytes(self, shape: Shape, tensor_parallel_size: int = 1, layer_shares: tuple[float, ...] = (1.0,)) -> float:
        """Bytes on the fullest GPU: the embedding is with the first stage's layers, the output with the last one's."""
        p, ends = shape.parameters, [0.0] * len(layer_shares)
        ends[0] += p.embedding
        ends[-1] += p.head or (p.embedding if len(ends) > 1 else 0)
        return max(
            self.layer_bytes(shape, tensor_parallel_size) * share
            + end * self.dense * self.factor / tensor_parallel_size
            for share, end in zip(layer_shares, ends, strict=True)
        )

    def output_bytes(self, shape: Shape) -> float:
        return shape.output_parameters * self.dense * self.factor

    def total(self, shape: Shape) -> float:
        return self.gpu_bytes(shape)


def read_weights(config: Mapping[str, Any], shape: Shape, folder: Path | None, dtype: str = "auto") -> Weights:
    """How the weights are kept on a GPU; `folder`: the model's, whose files are believed more than the count.

    `dtype`: the spec's. Raises SpecError for a quantisation that we know nothing of.
    """
    text = config.get("text_config") or config
    stored = str(config.get("dtype") or text.get("dtype") or config.get("torch_dtype") or "bfloat16")
    quantised = config.get("quantization_config") or text.get("quantization_config")
    served = DTYPE_BYTES.get(dtype) or min(2, DTYPE_BYTES.get(stored, 2))  # vLLM's auto makes float32 16 bit
    counted = _counted(quantised, served)
    found = _file_bytes(folder) if folder else None
    if found is None:
        return counted
    size, source = found
    kept = size if quantised else size * served / DTYPE_BYTES.get(stored, 2)
    return replace(counted, source=source, factor=kept / counted.total(shape))


def _counted(quantised: Mapping[str, Any] | None, served: float) -> Weights:
    """Embeddings, norms and routers keep their precision; so does attention where the config leaves it out."""
    if not quantised:
        return Weights(served, served, served, served, served, 1, "parameter count")
    left_out = " ".join(quantised.get("modules_to_not_convert") or quantised.get("ignore") or [])
    linear = _bits(quantised) / 8
    attention = served if "self_attn" in left_out else linear
    block = max(quantised.get("weight_block_size") or [1])
    method = quantised.get("quant_method")
    return Weights(served, attention, linear, linear, served, block, f"parameter count, {method}")


def _bits(quantised: Mapping[str, Any]) -> float:
    """Bits of a quantised parameter with its share of the scales (16 bit; 32 for bitsandbytes and FP8 blocks)."""
    method = str(quantised.get("quant_method", "")).replace("_", "-")
    if method in ("fp8", "fbgemm-fp8"):
        block = quantised.get("weight_block_size")
        return 8 + (32 / (block[0] * block[1]) if block else 0)
    if method in ("awq", "gptq"):
        bits, group = float(quantised["bits"]), int(quantised.get("group_size") or 128)
        return bits + ((16 + bits) / group if group > 0 else 0)  # a scale and a zero point for each group
    if method == "bitsandbytes":
        return 8.0 if quantised.get("load_in_8bit") else 4.5  # a float32 scale for each 64 values
    if method == "compressed-tensors":
        weights = next(iter(quantised["config_groups"].values()))["weights"]
        return float(weights["num_bits"]) + (16 / weights["group_size"] if weights.get("group_size") else 0)
    if method == "mxfp4":
        return 4.25  # an 8 bit scale for each 32 values
    raise SpecError(
        f"quantization_config has quant_method {method!r}, whose size is not known here. Known are fp8, awq, gptq, "
        "bitsandbytes, compressed-tensors and mxfp4: give tensor_parallel_size and replicas yourself"
    )


def _file_bytes(folder: Path) -> tuple[float, str] | None:
    """Bytes of the weights that lie in `folder`, and the file that says so."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        total = json.loads(index.read_text(encoding="utf-8")).get("metadata", {}).get("total_size")
        return (float(total), index.name) if total else None
    return (float(single.stat().st_size), single.name) if single.is_file() else None
