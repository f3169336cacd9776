"""Ray Serve's vLLM engine, started with one process less where there is no GPU."""

import os
from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine


class OneProcessEngine(VLLMEngine):
    """Runs the model in the engine's own process instead of a worker's, which saves a third chain of imports (15 s).

    Ray gives every CPU engine the multi-process executor. It is there to bind OpenMP's threads to cores, which we
    leave to the kernel, and to run tensor parallel workers, of which a model on one CPU has none.
    """

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        arguments, frontend, config = super()._prepare_engine_config(callback_ctx)
        if config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = "uni"
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else the CPU platform sets "mp" again
        return arguments, frontend, config
