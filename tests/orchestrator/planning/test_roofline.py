"""The roofline by hand, and against the one measurement that there is."""

from typing import Any

import pytest

from orchestrator.planning import roofline
from orchestrator.planning.gpus import find_gpu
from orchestrator.planning.roofline import Replica, enough_sequences, prefill_seconds, step_seconds, throughput
from orchestrator.planning.shape import read_shape
from orchestrator.planning.weights import read_weights
from tests.support.planning_configs import DEEPSEEK_V3, LLAMA_8B, LLAMA_405B, MIXTRAL, QWEN_8B

MEASURED = 9892  # output tokens/s: Qwen3-8B's shape, one H200, vLLM 0.25, 512 sequences, 520 + 256 tokens


def replica(config: dict[str, Any], gpu: str = "h200", *sizes: int, **more: Any) -> Replica:
    shape = read_shape(config, "model")
    return Replica(shape, read_weights(config, shape, None), find_gpu(gpu), *sizes, **more)


def test_the_anchor_is_met() -> None:
    assert throughput(replica(QWEN_8B), 512, 520, 256) == pytest.approx(MEASURED, rel=0.01)


def test_a_lone_sequence_waits_for_the_weights() -> None:
    one = replica(LLAMA_8B)
    read = 2 * (8_030_261_248 - 128256 * 4096) / (4.8e12 * 0.8)  # all but the embedding
    cache = 1000 * 131_072 / (4.8e12 * 0.8)
    assert step_seconds(one, 1, 1000) == pytest.approx(read + cache + 2e-3, rel=0.001)


def test_many_sequences_wait_for_the_arithmetic() -> None:
    one = replica(LLAMA_8B)
    p = one.shape.parameters
    products = 2 * 1000 * (p.attention + p.kv + p.mlp + p.head) / (989e12 * 0.65)
    cache = 1000 * 1000 * 131_072 / (4.8e12 * 0.8)
    host = 2e-3 + 1000 * roofline.SEQUENCE_OVERHEAD
    assert step_seconds(one, 1000, 1000) == pytest.approx(products + cache + host)


def test_enough_is_where_the_two_meet() -> None:
    one = replica(LLAMA_8B)
    assert enough_sequences(one) == pytest.approx(989e12 * 0.65 / (4.8e12 * 0.8), abs=1)  # bf16: 2 bytes, 2 FLOPs
    assert enough_sequences(replica(LLAMA_8B, "h100")) == pytest.approx(989e12 * 0.65 / (3.35e12 * 0.8), abs=1)


def test_experts_want_more_sequences_and_cost_fewer_flops() -> None:
    mixtral, dense = replica(MIXTRAL), replica(LLAMA_8B)
    assert enough_sequences(mixtral) > 3 * enough_sequences(dense)
    ratio = prefill_seconds(mixtral, 512) / prefill_seconds(dense, 512)
    active = mixtral.shape.active_parameters / dense.shape.active_parameters
    assert ratio == pytest.approx(active, rel=0.02)  # not 46.7e9 / 8.0e9


def test_few_sequences_read_few_experts() -> None:
    mixtral = replica(MIXTRAL)
    p = mixtral.shape.parameters
    all_but_embedding = 2 * (p.total - p.embedding) / (4.8e12 * 0.8) + 2e-3
    idle = 2 * 0.75 * p.experts / (4.8e12 * 0.8)
    assert step_seconds(mixtral, 1, 1) == pytest.approx(all_but_embedding - idle, rel=0.001)


def test_tensor_parallelism_shortens_a_step_and_costs_reductions() -> None:
    one, two = (replica(LLAMA_8B, "h200", size) for size in (1, 2))
    gpu_work = step_seconds(one, 256, 1000) - 2e-3 - 256 * roofline.SEQUENCE_OVERHEAD
    sent = 32 * 2 * (2 * 0.5 * 256 * 4096 * 2 / (450e9 * 0.6) + 10e-6)
    host = 2e-3 + 256 * roofline.SEQUENCE_OVERHEAD
    assert step_seconds(two, 256, 1000) == pytest.approx(gpu_work / 2 + sent + host, rel=0.001)


def test_a_pipeline_waits_for_its_slowest_stage() -> None:
    config = LLAMA_405B | {"num_hidden_layers": 6}
    assert replica(config, "h100", 8, 4).layer_shares == (1 / 6, 2 / 6, 2 / 6, 1 / 6)  # as vLLM has it
    whole, pipe = replica(LLAMA_405B, "h100", 8, 1), replica(LLAMA_405B, "h100", 8, 2)
    assert throughput(whole, 512, 512, 512) < throughput(pipe, 512, 512, 512) < 2 * throughput(whole, 512, 512, 512)


def test_a_repeated_cache_is_read_by_every_gpu() -> None:
    """MLA's cache is read whole by every GPU, so tensor parallelism does not share that work."""
    one, eight = (replica(DEEPSEEK_V3, "b200", size) for size in (1, 8))
    assert one.shape.cache_bytes(8192, 1) == eight.shape.cache_bytes(8192, 1, 8)
    assert step_seconds(one, 256, 100_000) < 8 * step_seconds(eight, 256, 100_000)
