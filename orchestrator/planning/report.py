"""A plan for people and for programs."""

import dataclasses
from typing import Any

from orchestrator.planning.choice import Candidate, Plan
from orchestrator.planning.gpus import GIB
from orchestrator.planning.request import Planned
from orchestrator.planning.shape import COUNTED

COLUMNS = "    tensor  pipeline  replicas  weights/GPU  tokens/s  why"


def as_text(planned: Planned) -> str:
    """Model, GPUs and lengths, a line for each layout, the chosen one marked, and the spec's lines to copy."""
    plan, demand, chosen = planned.plan, planned.demand, planned.plan.chosen
    return "\n".join(
        [
            *about(planned),
            f"expected: {demand.prompt_tokens} prompt and {demand.output_tokens} output tokens, "
            f"at most {demand.max_num_seqs} sequences a replica and {demand.max_model_len} tokens each",
            "",
            COLUMNS,
            *(_row(candidate, "->" if candidate == chosen else "") for candidate in _worth_showing(plan)),
            "all GPUs in one replica:",
            _row(plan.one_replica, ""),
            "",
            *caveats(planned),
            f"chosen: {in_words(chosen)}, the most output tokens/s by prediction; none of it is measured",
        ]
    )


def _worth_showing(plan: Plan) -> list[Candidate]:
    """Every tensor parallel size alone, and the best of its pipelines; all are in the JSON."""
    best: dict[int, Candidate] = {}
    for candidate in plan.candidates:
        size = candidate.tensor_parallel_size
        if candidate.pipeline_parallel_size > 1 and candidate.tokens_per_second:
            best[size] = max(best.get(size, candidate), candidate, key=lambda one: one.tokens_per_second or 0)
    return [one for one in plan.candidates if one.pipeline_parallel_size == 1] + [best[size] for size in sorted(best)]


def caveats(planned: Planned) -> list[str]:
    """What makes the figures less certain than those of a dense model on one GPU, the kind that was measured."""
    shape = planned.shape
    said = []
    if shape.model_type not in COUNTED:
        said.append(f"{shape.model_type} is counted as a plain decoder")
    if shape.experts:
        said.append(f"no model with experts was measured: the figures for {shape.model_type} are the least certain")
    if planned.plan.chosen.pipeline_parallel_size > 1:
        said.append("no pipeline was measured: the order of layouts that are near each other may be another")
    return said


def about(planned: Planned) -> list[str]:
    """The model and the GPUs, a line each."""
    shape, hardware, demand = planned.shape, planned.hardware, planned.demand
    cache = shape.cache_bytes(1, demand.cache_value)
    active = shape.active_parameters + shape.output_parameters
    experts = f", {active / 1e9:.1f}e9 of them active" if shape.experts else ""
    return [
        f"{planned.model}: {shape.parameters.total:,} parameters{experts}, "
        f"{planned.weights.total(shape) / GIB:.1f} GiB ({planned.weights.source}), "
        f"{cache:,.0f} bytes of KV cache a token",
        f"{hardware.total} x {hardware.gpu.name} on {len(hardware.hosts)} host(s), "
        f"{hardware.gpu.memory / GIB:.1f} GiB each, of which vLLM may take {demand.gpu_memory_utilization:.0%}",
    ]


def in_words(candidate: Candidate) -> str:
    pipeline = f" x pipeline {candidate.pipeline_parallel_size}" if candidate.pipeline_parallel_size > 1 else ""
    return f"{candidate.replicas} replica(s) of tensor parallel {candidate.tensor_parallel_size}{pipeline}"


def as_json(planned: Planned) -> dict[str, Any]:
    """The same figures; tokens_per_second is null where a layout does not fit."""
    shape, plan, hardware = planned.shape, planned.plan, planned.hardware
    return {
        "model": planned.model,
        "parameters": shape.parameters.total,
        "active_parameters": round(shape.active_parameters + shape.output_parameters),
        "weight_bytes": round(planned.weights.total(shape)),
        "weight_source": planned.weights.source,
        "cache_bytes_per_token": round(shape.cache_bytes(1, planned.demand.cache_value)),
        "gpu": dataclasses.asdict(hardware.gpu),
        "hosts": list(hardware.hosts),
        "demand": dataclasses.asdict(planned.demand),
        "chosen": dataclasses.asdict(plan.chosen),
        "candidates": [dataclasses.asdict(candidate) for candidate in plan.candidates],
        "one_replica": dataclasses.asdict(plan.one_replica),
        "caveats": caveats(planned),
    }


def _row(candidate: Candidate, mark: str) -> str:
    speed = f"{candidate.tokens_per_second:,.0f}" if candidate.tokens_per_second else "-"
    return (
        f"{mark:<4}{candidate.tensor_parallel_size:>6}  {candidate.pipeline_parallel_size:>8}  "
        f"{candidate.replicas:>8}  {candidate.weight_bytes / GIB:>7.1f} GiB  {speed:>8}  {candidate.reason}"
    )
