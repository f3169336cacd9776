"""Defines the keys that say how vLLM is deployed."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from orchestrator.spec import SpecModel


class ServingSpec(SpecModel):
    """How vLLM is deployed on Ray Serve. Names are vLLM's own; `null` leaves vLLM's default."""

    parallelism: Literal["auto"] | None = None  # auto: the three sizes below follow from model and GPUs
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    replicas: PositiveInt = 1
    max_replicas: PositiveInt | None = None  # above `replicas`: Serve scales between the two
    max_model_len: PositiveInt | None = None
    yarn_factor: float | None = Field(default=None, gt=1)  # context extension, passed as hf_overrides
    hf_overrides: dict[str, Any] = {}
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    max_num_seqs: PositiveInt | None = None
    max_num_batched_tokens: PositiveInt | None = None
    enable_chunked_prefill: bool | None = None
    enforce_eager: bool = False
    reasoning_parser: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    engine_kwargs: dict[str, Any] = {}  # any other option of vLLM's engine
    startup_timeout: float = Field(default=1800, gt=0)  # seconds until the first token

    @model_validator(mode="after")
    def _one_decides(self) -> "ServingSpec":
        """A size of 1 counts as not set: the shipped specs contain it, and `parallelism=auto` may stand beside it."""
        sizes = ("tensor_parallel_size", "pipeline_parallel_size", "replicas", "max_replicas")
        given = next((name for name in sizes if getattr(self, name) not in (1, None)), None)
        if self.parallelism == "auto" and given:
            raise ValueError(f"parallelism=auto decides {given} too: leave out one of the two")
        return self
