"""`parallelism: auto` on a connected cluster: its GPUs as Ray knows them, and the sizes that follow."""

from collections.abc import Callable

import ray

from orchestrator.errors import SpecError
from orchestrator.planning.choice import Hardware, batched_tokens
from orchestrator.planning.gpus import find_gpu, named_kinds
from orchestrator.planning.report import about, caveats, in_words
from orchestrator.planning.request import Planned, plan_layout, share_out, take
from orchestrator.ray_cluster.connect import Cluster
from orchestrator.serving.options import GPU_MAX_NUM_SEQS
from orchestrator.serving.spec import ServingSpec

# What a judge reads, an answer without its reasoning and the instructions, and what it writes (estimates).
JUDGE_PROMPT_TOKENS, JUDGE_OUTPUT_TOKENS = 1024, 384


def settle_layout(
    model: str,
    spec: ServingSpec,
    cluster: Cluster,
    *,
    progress: Callable[[str], None],
    output_tokens: int | None = None,
    beside: ServingSpec | None = None,
) -> ServingSpec:
    """`spec` with the sizes that the planner chooses in place of `parallelism: auto`; any other comes back as it is.

    All GPUs of the cluster are used, busy or not, so that two jobs that want the same share one deployment; those of
    `beside`, which this job deploys too, are left to it. `output_tokens`: the most that an answer may have, if known.
    Raises SpecError where the GPUs are unknown or hold no replica.
    """
    if spec.parallelism != "auto":
        return spec
    if not cluster.gpus:
        return spec.model_copy(update={"parallelism": None})
    return _settled(spec, plan_layout(model, spec, _hardware(beside), output_tokens=output_tokens), progress)


def settle_both(
    model: str,
    spec: ServingSpec,
    judge: str,
    judge_spec: ServingSpec,
    cluster: Cluster,
    *,
    progress: Callable[[str], None],
    output_tokens: int | None = None,
) -> tuple[ServingSpec, ServingSpec]:
    """Both specs say `parallelism: auto`: the GPUs are shared out so that the judge keeps up with the answers.

    Raises SpecError as `settle_layout` does, and where the two do not fit side by side.
    """
    if not cluster.gpus:
        return spec.model_copy(update={"parallelism": None}), judge_spec.model_copy(update={"parallelism": None})
    hardware = _hardware(None)
    answering = plan_layout(model, spec, hardware, output_tokens=output_tokens)
    judging = plan_layout(
        judge, judge_spec, hardware, prompt_tokens=JUDGE_PROMPT_TOKENS, output_tokens=JUDGE_OUTPUT_TOKENS
    )
    answering, judging = share_out(answering, judging)
    return _settled(spec, answering, progress), _settled(judge_spec, judging, progress)


def _settled(spec: ServingSpec, planned: Planned, progress: Callable[[str], None]) -> ServingSpec:
    chosen = planned.plan.chosen
    for line in (*about(planned), *caveats(planned)):
        progress(line)
    progress(
        f"parallelism auto: {in_words(chosen)}, {chosen.reason}; predicted {chosen.tokens_per_second:,.0f} tokens/s"
    )
    sizes = {
        "parallelism": None,
        "tensor_parallel_size": chosen.tensor_parallel_size,
        "pipeline_parallel_size": chosen.pipeline_parallel_size,
        "replicas": chosen.replicas,
    }
    if not (spec.max_num_seqs or spec.engine_kwargs.get("max_num_seqs")):  # the client keeps as many in flight
        sizes["max_num_seqs"] = max(chosen.sequences, GPU_MAX_NUM_SEQS)
    if not spec.max_num_batched_tokens and spec.enable_chunked_prefill is not False:  # else it bounds the prompts
        sizes["max_num_batched_tokens"] = batched_tokens(planned.hardware.gpu)
    return spec.model_copy(update=sizes)


def gpus_of(spec: ServingSpec) -> int:
    """GPUs that a deployment takes at most."""
    return spec.tensor_parallel_size * spec.pipeline_parallel_size * (spec.max_replicas or spec.replicas)


def _hardware(beside: ServingSpec | None) -> Hardware:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    return hardware_of(nodes, gpus_of(beside) if beside else 0)


def hardware_of(nodes: list[dict[str, float]], taken: int) -> Hardware:
    """The GPUs of nodes with these Ray resources but for `taken`, counted off the smallest hosts first.

    Raises SpecError where Ray does not name them, or several kinds.
    """
    kinds = named_kinds(name for node in nodes for name in node)
    if len(kinds) != 1:
        raise SpecError(
            f"parallelism=auto needs one kind of GPU, Ray names {', '.join(sorted(kinds)) or 'none'} on this cluster. "
            "Give tensor_parallel_size, pipeline_parallel_size and replicas; python -m orchestrator.plan helps"
        )
    left, _ = take([int(node["GPU"]) for node in nodes], taken)
    return Hardware(find_gpu(kinds.pop()), left)
