"""Bytes of weights by precision, by file, and on each GPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.planning.shape import read_shape
from orchestrator.planning.weights import Weights, read_weights
from tests.support.planning_configs import DEEPSEEK_V3, LLAMA_8B, QWEN_30B_A3B

LINEAR = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)  # Llama-3.1-8B's layers, without norms
REST = 8_030_261_248 - LINEAR
SHAPE = read_shape(LLAMA_8B, "model")


def weights(quantised: dict[str, Any] | None = None, **more: Any) -> Weights:
    return read_weights(LLAMA_8B | {"quantization_config": quantised}, SHAPE, None, **more)


def test_bf16_takes_two_bytes_a_parameter() -> None:
    assert weights().total(SHAPE) == 2 * 8_030_261_248
    assert weights().source == "parameter count"
    assert weights(dtype="float32").total(SHAPE) == 4 * 8_030_261_248


@pytest.mark.parametrize(
    ("quantised", "bits"),
    [
        ({"quant_method": "fp8"}, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 16384),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "mxfp4"}, 4.25),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
            },
            4.5,
        ),
    ],
)
def test_linear_layers_are_quantised_and_the_rest_is_not(quantised: dict[str, Any], bits: float) -> None:
    assert weights(quantised).total(SHAPE) == pytest.approx(LINEAR * bits / 8 + REST * 2)


def test_what_the_config_leaves_out_keeps_its_precision() -> None:
    whole = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    expected = (LINEAR - attention) * 4.25 / 8 + (REST + attention) * 2
    assert weights(whole).total(SHAPE) == pytest.approx(expected)


def test_an_unknown_quantisation_is_refused() -> None:
    with pytest.raises(SpecError, match="'quip'"):
        weights({"quant_method": "quip"})


def test_files_are_believed_more_than_the_count(tmp_path: Path) -> None:
    assert read_weights(LLAMA_8B, SHAPE, tmp_path).source == "parameter count"
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    assert read_weights(LLAMA_8B, SHAPE, tmp_path).total(SHAPE) == pytest.approx(1000)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 17_000_000_000}}), encoding="utf-8")
    found = read_weights(LLAMA_8B, SHAPE, tmp_path)
    assert found.total(SHAPE) == pytest.approx(17e9) and found.source == "model.safetensors.index.json"
    in_float32 = read_weights(LLAMA_8B | {"dtype": "float32"}, SHAPE, tmp_path)  # served in 16 bit
    assert in_float32.total(SHAPE) == pytest.approx(8.5e9)


def test_tensor_parallelism_divides_all_but_norms() -> None:
    norms = 65 * 4096 * 2
    assert weights().gpu_bytes(SHAPE, 4) == pytest.approx((2 * 8_030_261_248 - norms) / 4 + norms)


def test_keys_and_values_are_divided_as_far_as_there_are_heads() -> None:
    shape = read_shape(QWEN_30B_A3B, "model")  # 4 KV heads
    full = read_weights(QWEN_30B_A3B, shape, None)
    p = shape.parameters
    everywhere = (p.routers + p.norms) * 2
    assert p.kv == 48 * 2 * 2048 * 512
    assert full.layer_bytes(shape, 8) == pytest.approx(2 * (p.attention + p.experts) / 8 + 2 * p.kv / 4 + everywhere)


def test_mla_keeps_its_way_down_on_every_gpu() -> None:
    shape = read_shape(DEEPSEEK_V3, "model")
    assert shape.parameters.replicated == 61 * 7168 * (512 + 64 + 1536)
    small = read_weights(DEEPSEEK_V3, shape, None).gpu_bytes(shape, 8)
    assert small > read_weights(DEEPSEEK_V3, shape, None).total(shape) / 8 + shape.parameters.replicated * 7 / 8


def test_stages_have_their_layers_and_one_end_of_the_model() -> None:
    half = (2 * 8_030_261_248 - 2 * 2 * 128256 * 4096) / 2
    assert weights().gpu_bytes(SHAPE, 1, (0.5, 0.5)) == pytest.approx(half + 2 * 128256 * 4096)
