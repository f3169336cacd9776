"""Parameters and KV cache bytes, against published figures and against the models that transformers builds."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from orchestrator.errors import SpecError
from orchestrator.planning.shape import read_shape
from tests.support.planning_configs import (
    DEEPSEEK_V3,
    LLAMA_8B,
    LLAMA_405B,
    MIXTRAL,
    PUBLISHED,
    QWEN_8B,
    QWEN_30B_A3B,
    QWEN_32B,
)


@pytest.mark.parametrize(
    ("config", "parameters", "cache"),
    [
        (LLAMA_8B, 8_030_261_248, 131_072),
        (LLAMA_405B, 405_853_388_800, 516_096),
        (QWEN_8B, 8_190_735_360, 147_456),
        (QWEN_32B, 32_762_123_264, 262_144),
        (QWEN_30B_A3B, 30_532_122_624, 98_304),
        (MIXTRAL, 46_702_792_704, 131_072),
        (DEEPSEEK_V3, 671_026_404_352, 70_272),
    ],
)
def test_published_models_have_their_published_sizes(config: dict[str, Any], parameters: int, cache: int) -> None:
    shape = read_shape(config, "model")
    assert shape.parameters.total == parameters
    assert shape.cache_bytes(1, 2) == cache


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen3-0.6B", 596_049_920),
        ("Qwen3-1.7B", 1_720_574_976),
        ("Qwen3-4B", 4_022_468_096),
        ("Qwen3-14B", 14_768_307_200),
        ("Qwen3-235B-A22B", 235_093_634_560),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen2.5-32B", 32_763_876_352),
        ("Qwen2.5-72B", 72_706_203_648),
        ("Llama-3.3-70B", 70_553_706_496),
        ("Mistral-7B-v0.3", 7_248_023_552),
        ("Mistral-Small-24B", 23_572_403_200),
        ("Mixtral-8x22B", 140_620_634_112),
        ("gpt-oss-20b", 20_914_757_184),
        ("gpt-oss-120b", 116_829_156_672),
    ],
)
def test_more_published_models_have_their_published_sizes(name: str, parameters: int) -> None:
    assert read_shape(PUBLISHED[name], name).parameters.total == parameters


SMALL = {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8}
SMALL |= {"num_key_value_heads": 2, "intermediate_size": 512}
EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 64}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("mistral", {"head_dim": 48}),
        ("mixtral", {}),
        ("qwen2", {}),
        ("qwen2_moe", {"shared_expert_intermediate_size": 128, "num_experts": 6, "decoder_sparse_step": 2}),
        ("qwen3", {"head_dim": 64, "tie_word_embeddings": True}),
        ("qwen3_moe", {"moe_intermediate_size": 64, "num_experts": 16, "mlp_only_layers": [1]}),
        ("deepseek_v2", EXPERTS | {"n_shared_experts": 2, "q_lora_rank": None, "first_k_dense_replace": 1}),
        ("deepseek_v3", EXPERTS | {"num_hidden_layers": 5}),
        ("gpt_oss", {"num_local_experts": 8}),
    ],
)
def test_the_count_is_that_of_the_model_which_transformers_builds(kind: str, changes: dict[str, Any]) -> None:
    config = AutoConfig.for_model(kind, **(SMALL | changes))
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config)
    counted = read_shape(config.to_dict(), kind).parameters.total
    assert counted == sum(parameter.numel() for parameter in built.parameters())


def test_kv_heads_are_divided_and_then_repeated() -> None:
    shape = read_shape(QWEN_30B_A3B, "model")  # 4 KV heads
    assert [shape.cache_bytes(1, 2, size) for size in (1, 2, 4, 8)] == [98_304, 49_152, 24_576, 24_576]


def test_the_compressed_cache_is_on_every_gpu() -> None:
    shape = read_shape(DEEPSEEK_V3, "model")
    assert shape.cache_bytes(10, 2, 8) == shape.cache_bytes(10, 2, 1) == 702_720
    assert shape.cache_bytes(10, 1) == 351_360  # fp8


def test_a_sliding_window_bounds_the_cache_of_its_layers() -> None:
    config = LLAMA_8B | {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16}
    shape = read_shape(config, "model")
    assert shape.cache_bytes(1000, 2) == (16 * 1000 + 16 * 128) * 4096


def test_of_experts_only_those_that_a_token_uses_are_multiplied() -> None:
    shape = read_shape(MIXTRAL, "model")
    mlp = 32 * 3 * 4096 * 14336  # one expert in all layers
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    assert shape.active_parameters == attention + 2 * mlp + 32 * 8 * 4096
    assert read_shape(LLAMA_8B, "model").active_parameters == attention + mlp


def test_a_model_inside_another_is_found() -> None:
    assert read_shape({"model_type": "mistral3", "text_config": LLAMA_8B}, "model").layers == 32


@pytest.mark.parametrize("changes", [{"layer_types": ["linear_attention"] * 32}, {"num_attention_heads": None}])
def test_what_is_no_such_model_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"config of odd/model .* tensor_parallel_size"):
        read_shape(LLAMA_8B | changes, "odd/model")
