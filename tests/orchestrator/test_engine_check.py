"""What a spec tells vLLM, against what the installed vLLM takes: names, types, limits, parsers."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cluster.files import REPOSITORY
from orchestrator.errors import SpecError
from orchestrator.serving import check
from orchestrator.serving.check import check_options
from orchestrator.serving.identity import GENERATION_KEYS
from orchestrator.serving.spec import ServingSpec

GROUP = "serving.engine_kwargs"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("enable_prefix_cachin", f"Did you mean {GROUP}.enable_prefix_caching?"),
        ("kv_cache_dtyp", f"Did you mean {GROUP}.kv_cache_dtype?"),
        ("enable_auto_tool_choise", f"Did you mean {GROUP}.enable_auto_tool_choice?"),
        ("max-model-len", "Did you mean serving.max_model_len?"),
        ("tensor_paralel_size", "Did you mean serving.tensor_parallel_size?"),
        ("swap_space", "has no option swap_space"),  # vLLM had it once
        ("foo", "has no option foo"),
        ("5", "has no option 5"),
        ("tensor_parallel_size", "Give serving.tensor_parallel_size"),
        ("model", "The model has its own key"),
        ("port", "Ray Serve chooses it"),
        ("served_model_name", "The model has its own key"),
        ("distributed_executor_backend", "Ray Serve chooses it"),
        ("hf_token", "HF_TOKEN in the environment"),
    ],
)
def test_an_option_that_vllm_does_not_have_is_named_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        check_options(ServingSpec(engine_kwargs={name: 1}))
    assert f"{GROUP}.{name}" in str(error.value)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("block_size", "abc", "valid integer"),
        ("block_size", -1, "greater than 0"),
        ("block_size", [16], "valid integer"),
        ("max_num_seqs", 0, "greater than or equal to 1"),
        ("max_num_batched_tokens", "8k", "valid integer"),
        ("gpu_memory_utilization", 2, "less than or equal to 1"),
        ("seed", 1.5, "valid integer"),
        ("enforce_eager", "maybe", "valid boolean"),
        ("kv_cache_dtype", "fp9", "'fp8'"),
        ("dtype", "bf16", "'bfloat16'"),
        ("quantization", "fp99", "vLLM knows"),
        ("attention_backend", "FLASH_ATN", "did you mean FLASH_ATTN?"),
        ("optimization_level", 7, "O0, O1, O2, O3"),
        ("revision", 5, "valid string"),
        ("hf_overrides", "x", "valid dictionary"),
        ("limit_mm_per_prompt", {"image": "x"}, "image"),
        ("limit_mm_per_prompt", "image=2", "valid dictionary"),
        ("cudagraph_capture_sizes", 5, "valid list"),
        ("max_lora_rank", 17, "16, 32"),
        ("compilation_config", 3, "dictionary"),
        ("compilation_config", {"level": 3}, "level: Unexpected keyword"),
        ("structured_outputs_config", {"backend": "x"}, "'xgrammar'"),
        ("speculative_config", {"metod": "ngram"}, "did you mean method?"),
        ("speculative_config", "ngram", "valid dictionary"),
        ("reasoning_parser", "qwen33", "did you mean qwen3?"),
        ("reasoning_parser", 3, "vLLM knows"),
        ("tool_call_parser", "herms", "did you mean hermes?"),
        ("uvicorn_log_level", "loud", "'warning'"),
        ("load_format", "safetensor", "did you mean safetensors?"),
        ("load_format", "gibberish", "vLLM knows auto, dummy"),
        ("load_format", 3, "valid string"),
        ("override_generation_config", {"temprature": 0.5}, "did you mean temperature?"),
        ("override_generation_config", {"topk": 1}, "did you mean top_k?"),
        ("override_generation_config", {"top_k": 1, "max_tokens": 9}, "did you mean max_new_tokens?"),
        ("override_generation_config", {"presence_penalty": 1.5}, "vLLM ignores presence_penalty here and reads"),
        ("override_generation_config", "temperature=0.5", "valid dictionary"),
    ],
)
def test_a_value_that_vllm_does_not_take_is_told(name: str, value: Any, told: str) -> None:
    with pytest.raises(SpecError) as error:
        check_options(ServingSpec(engine_kwargs={name: value}))
    assert str(error.value).startswith(f"{GROUP}.{name}={value!r} does not fit: ")
    assert told in str(error.value)
    assert len(str(error.value)) < 500 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"max_model_len": -1, "block_size": 32, "enforce_eager": True, "enable_prefix_caching": False},
        {"kv_cache_dtype": "fp8", "quantization": "fp8", "load_format": "dummy", "dtype": "half"},
        {"compilation_config": {"mode": 3, "cudagraph_mode": "FULL"}, "optimization_level": 2},
        {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}},
        {"attention_backend": "FLASH_ATTN", "attention_config": {"backend": "FLASH_ATTN"}},
        {"hf_overrides": {"rope_parameters": {"factor": 4}}, "override_generation_config": {"temperature": 0.5}},
        {"override_generation_config": {"min_new_tokens": 1, "do_sample": True, "attn_temperature_tuning": True}},
        {"load_format": "RUNAI_STREAMER", "override_generation_config": dict.fromkeys(GENERATION_KEYS, 1)},
        {"limit_mm_per_prompt": {"image": 2}, "mm_processor_kwargs": {"a": 1}, "cpu_offload_gb": 4},
        {"tool_call_parser": "hermes", "enable_auto_tool_choice": True, "chat_template": "x.jinja"},
        {"reasoning_parser": "mine", "reasoning_parser_plugin": "/plugins/mine.py"},
        {"enable_expert_parallel": True, "trust_remote_code": True, "revision": "main", "tokenizer_mode": "mistral"},
        {"max_num_seqs": None, "seed": "1", "async_scheduling": False, "generation_config": "vllm"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_vllm_takes_passes(options: dict[str, Any]) -> None:
    check_options(ServingSpec(engine_kwargs=options, reasoning_parser="qwen3"))


def test_the_environment_stays_for_a_cluster_that_is_started_later() -> None:
    """In a process of its own: here vLLM is imported already."""
    code = (
        "import os; before = dict(os.environ)\n"
        "from orchestrator.serving.check import check_options\n"
        "from orchestrator.serving.spec import ServingSpec\n"
        "check_options(ServingSpec(reasoning_parser='qwen3'))\n"
        "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_specs_own_parser_is_looked_up_under_its_own_key() -> None:
    with pytest.raises(SpecError, match=r"^judge_serving\.reasoning_parser='deepseek' does not fit"):
        check_options(ServingSpec(reasoning_parser="deepseek"), "judge_serving")


def test_vllm_reads_just_these_keys_of_a_generation_config() -> None:
    """Its list stands within a method, which is asked here about every name that could be meant."""
    from transformers import GenerationConfig
    from vllm import SamplingParams
    from vllm.config import ModelConfig

    names = {*dir(SamplingParams()), *vars(GenerationConfig()), *GENERATION_KEYS}
    asked = SimpleNamespace(generation_config="vllm", override_generation_config=dict.fromkeys(names, 1))
    read = ModelConfig.get_diff_sampling_param(cast(ModelConfig, asked))
    assert read == dict.fromkeys({*GENERATION_KEYS, "max_tokens"} - {"max_new_tokens"}, 1)


def test_a_loader_of_another_package_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = EntryPoint("loader", "elsewhere:register", "vllm.general_plugins")
    monkeypatch.setattr(check, "entry_points", lambda group: [plugin])
    check_options(ServingSpec(engine_kwargs={"load_format": "elsewhere"}))
