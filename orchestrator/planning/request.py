"""From a model and a serving spec to a plan: the config is read, lengths and limits get their defaults."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.files import expanded
from orchestrator.errors import SpecError
from orchestrator.planning.choice import Demand, Hardware, Plan, choose
from orchestrator.planning.gpus import GIB, GpuKind
from orchestrator.planning.shape import Shape, read_shape
from orchestrator.planning.weights import DTYPE_BYTES, Weights, read_weights
from orchestrator.serving.options import engine_kwargs, read_config
from orchestrator.serving.spec import ServingSpec

# Tokens of a request where the spec does not say: a question with its instructions, an answer with some reasoning.
PROMPT_TOKENS = 512
OUTPUT_TOKENS = 2048
UTILIZATION = 0.92  # vLLM 0.29's default of gpu_memory_utilization; it was 0.9 before
LARGE_GPU = 70 * GIB  # vLLM's defaults are larger from here on, but for the A100 (EngineArgs.get_batch_defaults)


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan and what it was made from."""

    model: str
    shape: Shape
    weights: Weights
    hardware: Hardware
    demand: Demand
    plan: Plan

    @property
    def answers_per_second(self) -> float:
        return (self.plan.chosen.tokens_per_second or 0) / self.demand.output_tokens


def plan_layout(
    model: str,
    spec: ServingSpec,
    hardware: Hardware,
    *,
    prompt_tokens: int | None = None,
    output_tokens: int | None = None,
) -> Planned:
    """The layout of `model` under `spec` on `hardware`; lengths that are not given get a default.

    Raises SpecError for a config that cannot be read, a model that cannot be planned with, or one that fits nowhere.
    """
    options = engine_kwargs(model, spec, gpus=1)
    read = read_config(model, "the layout", "give tensor_parallel_size, pipeline_parallel_size and replicas yourself")
    config = read.to_dict() | options.get("hf_overrides", {})
    folder: Path | None = expanded(model)
    if options.get("quantization") and not config.get("quantization_config"):  # vLLM quantises while it loads
        config, folder = config | {"quantization_config": {"quant_method": options["quantization"]}}, None
    shape = read_shape(config, model)
    weights = read_weights(config, shape, folder, str(options["dtype"]))
    longest = int(options.get("max_model_len") or shape.max_position_embeddings * (spec.yarn_factor or 1))
    prompt, output = _lengths(longest, prompt_tokens, output_tokens)
    demand = Demand(
        prompt_tokens=prompt,
        output_tokens=output,
        max_model_len=longest or prompt + output,
        max_num_seqs=int(options.get("max_num_seqs") or _max_num_seqs(hardware.gpu)),
        gpu_memory_utilization=float(options.get("gpu_memory_utilization") or UTILIZATION),
        cache_value=_cache_value(options, weights),
    )
    return Planned(model, shape, weights, hardware, demand, choose(shape, weights, hardware, demand, model))


def share_out(model: Planned, judge: Planned) -> tuple[Planned, Planned]:
    """Both planned again on parts of the GPUs that each had for itself, so that judging keeps up with answering.

    Every number of GPUs is tried for the judge; that part wins with which the slower of the two is fastest, and of
    equals the one that leaves the model more. Raises SpecError where no part holds both.
    """
    best: tuple[Planned, Planned] | None = None
    for taken in range(1, model.hardware.total):
        try:
            pair = _on_parts(model, judge, taken)
        except SpecError:  # one of the two fits nowhere on its part
            continue
        if best is None or _slower(pair) > _slower(best):
            best = pair
    if best is None:
        raise SpecError(
            f"{model.model} and the judge {judge.model} do not fit side by side on {model.hardware.total} x "
            f"{model.hardware.gpu.name}. Give the judge an endpoint (judge_base_url), or judge "
            "afterwards: jobs.predict, then jobs.judge"
        )
    return best


def take(hosts: Sequence[int], gpus: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """GPUs of each host that are left, and those that are taken, when `gpus` come off the smallest hosts first."""
    left, taken = [], []
    for count in sorted(hosts):
        less = min(count, gpus)
        gpus -= less
        left.append(count - less)
        taken.append(less)
    return _largest_first(left), _largest_first(taken)


def _largest_first(hosts: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(filter(None, hosts), reverse=True))


def _on_parts(model: Planned, judge: Planned, taken: int) -> tuple[Planned, Planned]:
    left, right = take(model.hardware.hosts, taken)
    return _again(model, left), _again(judge, right)


def _again(planned: Planned, hosts: tuple[int, ...]) -> Planned:
    hardware = replace(planned.hardware, hosts=hosts)
    plan = choose(planned.shape, planned.weights, hardware, planned.demand, planned.model)
    return replace(planned, hardware=hardware, plan=plan)


def _slower(pair: tuple[Planned, Planned]) -> float:
    return min(planned.answers_per_second for planned in pair)


def _lengths(longest: int, prompt: int | None, output: int | None) -> tuple[int, int]:
    """Expected prompt and output tokens, together no longer than the context."""
    prompt, output = prompt or PROMPT_TOKENS, output or OUTPUT_TOKENS
    if longest and prompt + output > longest:
        prompt = min(prompt, max(1, longest // 2))
        output = min(output, max(1, longest - prompt))
    return prompt, output


def _max_num_seqs(gpu: GpuKind) -> int:
    return 1024 if gpu.memory >= LARGE_GPU and not gpu.name.startswith("a100") else 256


def _cache_value(options: dict[str, Any], weights: Weights) -> float:
    kind = str(options.get("kv_cache_dtype", "auto"))
    return 1 if kind.startswith("fp8") else DTYPE_BYTES.get(kind, weights.value)
