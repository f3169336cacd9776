"""Translates a ServingSpec into vLLM engine arguments and Ray Serve deployment options."""

from typing import Any

from cluster.files import expanded
from orchestrator.errors import SpecError
from orchestrator.serving.spec import ServingSpec
from orchestrator.spec import first_line

MAX_ONGOING = 1024  # requests that Serve hands to a replica; vLLM queues them better than Serve does
CPU_MAX_NUM_SEQS = 32
GPU_MAX_NUM_SEQS = 256  # vLLM's default for a server; 1024 on GPUs with 70 GiB and more


def engine_kwargs(model: str, spec: ServingSpec, gpus: int) -> dict[str, Any]:
    """vLLM's engine options: the spec's, those that a CPU needs, and last what `engine_kwargs` says."""
    names = (
        *("max_model_len", "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens"),
        *("enable_chunked_prefill", "reasoning_parser"),
    )
    options = {name: value for name in names if (value := getattr(spec, name)) is not None}
    options |= {
        "tensor_parallel_size": spec.tensor_parallel_size,
        "pipeline_parallel_size": spec.pipeline_parallel_size,
        "dtype": spec.dtype,
        "enforce_eager": spec.enforce_eager,
    }
    overrides = (_yarn(model, spec.yarn_factor) if spec.yarn_factor else {}) | spec.hf_overrides
    if overrides:
        options["hf_overrides"] = overrides
    if not gpus:
        options = _cpu_options(options)
    return options | spec.engine_kwargs


def _cpu_options(options: dict[str, Any]) -> dict[str, Any]:
    """Small and quick to start: half precision is emulated on most CPUs, and compiling takes minutes."""
    options.pop("gpu_memory_utilization", None)
    return options | {
        "dtype": "float32" if options["dtype"] == "auto" else options["dtype"],
        "enforce_eager": True,
        "max_num_seqs": options.get("max_num_seqs", CPU_MAX_NUM_SEQS),
        # Without it a small model under a JSON grammar may write white space until its budget is spent.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }


def read_config(model: str, needed_by: str, otherwise: str) -> Any:
    """The config of a model as transformers reads it, from its folder or the hub.

    Raises SpecError, which says what the config is `needed_by` and what to do `otherwise`.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model_source(model))
    except (OSError, ValueError) as error:  # gated, unknown or not in the cache; of a kind that transformers lacks
        raise SpecError(
            f"{needed_by} needs the config of {model}, which cannot be read: {first_line(error)} "
            f"Check model= and HF_TOKEN, or {otherwise}"
        ) from None


def _yarn(model: str, factor: float) -> dict[str, Any]:
    """YaRN as vLLM takes it since 0.11.1; the original length is what the model's own config says."""
    config = read_config(model, f"yarn_factor={factor:g}", "leave yarn_factor out and give hf_overrides")
    parameters = dict(getattr(config, "rope_parameters", None) or {})
    original = parameters.get("original_max_position_embeddings") or getattr(config, "max_position_embeddings", None)
    if original is None:
        raise SpecError(
            f"the config of {model} has no max_position_embeddings for yarn_factor: give hf_overrides instead"
        )
    parameters |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    return {"rope_parameters": parameters}


def max_num_seqs(spec: ServingSpec, gpus: int) -> int:
    """Sequences that one replica decodes at once; needs nothing of the model."""
    given = spec.engine_kwargs.get("max_num_seqs") or spec.max_num_seqs
    return int(given or (GPU_MAX_NUM_SEQS if gpus else CPU_MAX_NUM_SEQS))


def deployment_config(spec: ServingSpec, options: dict[str, Any]) -> dict[str, Any]:
    """Serve's options of the engine's deployment, whose `options` are those of `engine_kwargs`."""
    ongoing = max(MAX_ONGOING, 2 * int(options.get("max_num_seqs") or 0))
    scale: dict[str, Any] = {"num_replicas": spec.replicas}
    if spec.max_replicas and spec.max_replicas > spec.replicas:
        target = int(options.get("max_num_seqs") or GPU_MAX_NUM_SEQS)
        limits = {"min_replicas": spec.replicas, "max_replicas": spec.max_replicas}
        scale = {"autoscaling_config": limits | {"target_ongoing_requests": target}}
    return scale | {
        "name": "engine",
        "max_ongoing_requests": ongoing,
        "health_check_period_s": 1,  # a dead engine fails fast, so it draws requests until Serve has noticed
        "max_constructor_retry_count": 1,  # what is wrong with a model or its memory is wrong the second time too
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": 5,
    }


def model_source(model: str) -> str:
    """Workers have another working directory, so a folder is given as an absolute path."""
    folder = expanded(model)
    return str(folder.absolute()) if folder.is_dir() else model
