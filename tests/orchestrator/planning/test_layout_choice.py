"""Which layout is chosen, and why others are not."""

from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.planning.choice import Candidate, Demand, Hardware, Plan, choose, weigh
from orchestrator.planning.gpus import find_gpu
from orchestrator.planning.shape import read_shape
from orchestrator.planning.weights import read_weights
from tests.support.planning_configs import (
    DEEPSEEK_V3,
    LLAMA_8B,
    LLAMA_405B,
    PUBLISHED,
    QWEN_30B_A3B,
    QWEN_32B,
    QWEN_235B_A22B,
)

HARDWARE = [("h100", (8, 8)), ("h200", (8,)), ("a100-80gb", (4, 4, 4, 4)), ("l40s", (8, 8, 8)), ("h100", (8, 3))]


def plan(config: dict[str, Any], gpu: str, *hosts: int, **changes: Any) -> Plan:
    usual: dict[str, Any] = {"prompt_tokens": 512, "output_tokens": 2048, "max_model_len": 40960, "max_num_seqs": 1024}
    usual |= {"gpu_memory_utilization": 0.92, "cache_value": 2}
    shape = read_shape(config, "model")
    hardware = Hardware(find_gpu(gpu), hosts)
    return choose(shape, read_weights(config, shape, None), hardware, Demand(**(usual | changes)), "some/model")


def sizes(candidate: Candidate) -> tuple[int, int, int]:
    return candidate.tensor_parallel_size, candidate.pipeline_parallel_size, candidate.replicas


def test_a_32b_on_two_hosts_is_replicas_inside_a_host_and_faster_than_one_over_all() -> None:
    made = plan(QWEN_32B, "h100", 8, 8)
    size, stages, replicas = sizes(made.chosen)
    assert (stages, size * replicas) == (1, 16)
    assert size <= 4
    assert sizes(made.one_replica) == (8, 2, 1)
    assert made.one_replica.tokens_per_second is not None
    assert (made.chosen.tokens_per_second or 0) > 1.3 * made.one_replica.tokens_per_second


def test_the_chosen_one_has_the_highest_prediction() -> None:
    made = plan(QWEN_32B, "h200", 8, 8)
    assert made.chosen.tokens_per_second == max(one.tokens_per_second or 0 for one in made.candidates)
    assert {one.pipeline_parallel_size for one in made.candidates} == {1, 2, 3, 4, 5, 8, 16}  # though a host holds it


@pytest.mark.parametrize(("gpu", "hosts"), HARDWARE)
@pytest.mark.parametrize("name", PUBLISHED)
def test_no_layout_of_a_published_model_is_predicted_faster_than_the_chosen_one(
    name: str, gpu: str, hosts: tuple[int, ...]
) -> None:
    """Weighed one by one here: every tensor parallel size with every number of stages."""
    config = PUBLISHED[name]
    longest = min(config["max_position_embeddings"], 40960)
    shape = read_shape(config, name)
    weights, hardware = read_weights(config, shape, None), Hardware(find_gpu(gpu), hosts)
    demand = Demand(512, 2048, longest, 1024, 0.92, 2)
    all_of_them = [
        weigh(shape, weights, hardware, demand, size, stages)
        for size in range(1, max(hosts) + 1)
        for stages in range(1, min(sum(hosts), shape.layers) + 1)
    ]
    best = max(one.tokens_per_second or 0 for one in all_of_them)
    if not best:
        with pytest.raises(SpecError, match="fits nowhere"):
            choose(shape, weights, hardware, demand, name)
        return
    made = choose(shape, weights, hardware, demand, name)
    assert made.chosen.tokens_per_second == max(one.tokens_per_second or 0 for one in made.candidates)
    assert made.chosen.tokens_per_second >= max(0.99 * best, made.one_replica.tokens_per_second or 0)


def test_a_pipeline_is_taken_where_a_host_holds_the_model_and_little_else() -> None:
    made = plan(QWEN_235B_A22B, "h100", 8, 8)
    whole = next(one for one in made.candidates if sizes(one) == (8, 1, 2))
    assert sizes(made.chosen) == (8, 2, 1) == sizes(made.one_replica)
    assert (made.chosen.tokens_per_second or 0) > 1.5 * (whole.tokens_per_second or 0) > 0


def test_a_small_model_is_not_divided() -> None:
    assert sizes(plan(LLAMA_8B, "h200", 8, 8).chosen) == (1, 1, 16)


def test_vllm_wants_room_for_one_sequence_of_the_full_length() -> None:
    """61 GiB of weights fit an H100, 10 GiB of cache beside them do not; a shorter context does."""
    full, short = plan(QWEN_32B, "h100", 8), plan(QWEN_32B, "h100", 8, max_model_len=8192)
    assert full.candidates[0].reason.startswith("one sequence of 40960 tokens needs 10.0 GiB")
    assert full.candidates[0].tokens_per_second is None
    assert short.candidates[0].tokens_per_second


def test_what_one_host_cannot_hold_is_refused_there_and_piped_over_two() -> None:
    with pytest.raises(SpecError, match=r"some/model fits nowhere: 756\.0 GiB .* quantised weights, more hosts"):
        plan(LLAMA_405B, "h100", 8)
    assert sizes(plan(LLAMA_405B, "h100", 8, 8).chosen) == (8, 2, 1)
    assert sizes(plan(LLAMA_405B, "h100", 8, 8, 8, 8).chosen)[1:] != (1, 1)


def test_a_quantised_model_fits_one_host() -> None:
    fp8 = LLAMA_405B | {"quantization_config": {"quant_method": "fp8"}}
    assert sizes(plan(fp8, "h100", 8).chosen) == (8, 1, 1)
    made = plan(DEEPSEEK_V3, "h200", 8)
    assert sizes(made.chosen) == (4, 2, 1)  # MLA's cache, whole on every GPU of a group, is read by fewer
    assert [one for one in made.candidates if sizes(one) == (8, 1, 1) and one.tokens_per_second]


def test_sizes_that_vllm_refuses_are_no_candidates() -> None:
    odd = LLAMA_8B | {"num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128}
    reasons = {one.tensor_parallel_size: one for one in plan(odd, "h200", 8).candidates}
    assert set(reasons) == {1, 2, 3, 4, 6, 8}  # divisors of 24
    assert "8 KV heads" in reasons[3].reason
    assert reasons[3].tokens_per_second is None


def test_blocks_of_scales_stay_whole() -> None:
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}  # experts of width 768 are six blocks
    made = plan(QWEN_30B_A3B | {"quantization_config": fp8}, "h100", 8)
    fits = {one.tensor_parallel_size: one.tokens_per_second is not None for one in made.candidates}
    assert fits == {1: True, 2: True, 4: False, 8: False}


def test_uneven_hosts_keep_replicas_inside() -> None:
    made = plan(QWEN_32B, "h100", 8, 3)
    whole = [one for one in made.candidates if one.pipeline_parallel_size == 1]
    assert {one.tensor_parallel_size: one.replicas for one in whole} == {1: 11, 2: 5, 4: 2, 8: 1}


def test_sequences_follow_the_expected_length() -> None:
    short, long = (plan(LLAMA_8B, "h200", 1, output_tokens=n, max_num_seqs=10_000) for n in (512, 8192 - 512))
    assert short.chosen.sequences == pytest.approx(8 * long.chosen.sequences, rel=0.02)
    assert plan(LLAMA_8B, "h200", 1, max_num_seqs=64).chosen.sequences == 64


def test_no_gpus_hold_nothing() -> None:
    with pytest.raises(SpecError, match="0 x h200"):
        plan(LLAMA_8B, "h200")
