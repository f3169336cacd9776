"""Ray Train as we use it: a process for each rank, all of them killed at once when one fails, nothing retried."""

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

# For the environment of the driver, before it imports ray.train.
SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # it restarts the group by itself
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # a rank's output has a file of its own
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # its 60 s are short on a busy file system
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def trainer(
    function: Callable[[], Any],
    *,
    name: str,
    workers: int,
    cpu: bool,
    timeout: int,
    storage: Path,
    placement: Literal["PACK", "SPREAD"] = "PACK",
) -> Any:
    """A TorchTrainer of `workers` ranks that run `function` in a process group, each with a GPU, or a CPU if `cpu`.

    `timeout`: seconds that a rank waits for the others in a collective. `storage` is what Ray Train wants to write to:
    nothing that is needed lies there, and what an earlier run left is removed.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    shutil.rmtree(storage, ignore_errors=True)  # else Ray Train takes this run for a continuation
    return TorchTrainer(
        function,
        # The backends that verl's own process group has.
        torch_config=TorchConfig(backend="cpu:gloo" if cpu else "cpu:gloo,cuda:nccl", timeout_s=timeout),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=not cpu,
            resources_per_worker={"CPU": 1} if cpu else {"CPU": 1, "GPU": 1},
            placement_strategy=placement,
        ),
        run_config=RunConfig(name=name, storage_path=str(storage), failure_config=_no_retries()),
    )


def cause(error: Exception) -> tuple[int | None, str]:
    """The rank to blame, where one is, and a sentence. One that died is the cause: the others only miss it."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    dead = [rank for rank, failure in failures.items() if hasattr(failure, "health_check_failure")]
    rank = min(dead or failures, default=None)
    if rank is None:
        return None, _last_line(error)
    why = "killed, out of memory, or its node was lost" if dead else _last_line(failures[rank])
    return rank, f"rank {rank} {'died' if dead else 'failed'}: {why}"


def _no_retries() -> Any:
    """Every kind of retry that this version of Ray Train knows, set to none."""
    from ray.train import FailureConfig

    kinds = {"max_failures", "controller_failure_limit", "max_preemption_failures"}
    return FailureConfig(**{field.name: 0 for field in fields(FailureConfig) if field.name in kinds})


def _last_line(error: Exception) -> str:
    """Where a traceback says what it is about."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
