"""Supervised fine-tuning by verl inside Ray Train: python -m orchestrator.training.sft_driver RUN_FOLDER.

Ray Train places one process a GPU, each of which reads its own share of the data, and ends all of them at once when
one fails. It tries nothing again, and keeps nothing that resuming needs: both are the supervisor's.
"""

import os
import shutil
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import ray

from orchestrator import secrets
from orchestrator.cluster import connect
from orchestrator.errors import COMPLETE, INTERRUPTED, KosenError, Parser, run_command
from orchestrator.training.environment import worker_env
from orchestrator.training.folder import Failure, Journal, TrainingFolder
from orchestrator.training.sft_worker import Order, read_config, train

FAILED = 1
COLLECTIVE_TIMEOUT = 1800  # seconds that a rank waits for the others before it ends the attempt
RAY_TRAIN = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # it restarts the group by itself
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # a rank's output has a file of its own
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # its 60 s are short on a busy file system
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
KEYS = ("WANDB_API_KEY", "HF_TOKEN")  # a cluster's workers have the environment of whoever started the cluster


def main() -> int:
    """Exit code 0 when all steps are done, 130 when the stop flag ended them, 1 when something failed."""
    parser = Parser(prog="python -m orchestrator.training.sft_driver", description=__doc__)
    parser.add_argument("run_folder", type=Path)
    folder = TrainingFolder(parser.parse_args().run_folder.absolute())
    config, _ = read_config(folder)
    Journal(folder).phase("starting")
    os.environ.update(RAY_TRAIN)
    try:
        with connect():
            return _fit(folder, config)
    except KosenError as error:  # no cluster, or it does not answer
        folder.report_failure(Failure("other", str(error)))
        raise


def _fit(folder: TrainingFolder, config: Any) -> int:
    from ray.train import TrainingFailedError

    try:
        result = _trainer(folder, config).fit()
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        print(error, file=sys.stderr)
        folder.report_failure(Failure("other", _cause(error)))
        return FAILED
    except KeyboardInterrupt:
        return FAILED  # told to end at once: there may be no checkpoint of the last step
    finally:
        shutil.rmtree(_storage(folder), ignore_errors=True)
    return INTERRUPTED if result.return_value else COMPLETE


def _trainer(folder: TrainingFolder, config: Any) -> Any:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cpu = config.trainer.device == "cpu"
    keys = {name: value for name in KEYS if (value := secrets.find(name))}
    shutil.rmtree(_storage(folder), ignore_errors=True)  # else Ray Train takes this attempt for a continuation
    return TorchTrainer(
        partial(train, Order(folder, worker_env(cpu, folder.path), keys)),
        # The backends that verl's own process group has.
        torch_config=TorchConfig(backend="cpu:gloo" if cpu else "cpu:gloo,cuda:nccl", timeout_s=COLLECTIVE_TIMEOUT),
        scaling_config=ScalingConfig(
            num_workers=config.trainer.nnodes * config.trainer.n_gpus_per_node,
            use_gpu=not cpu,
            resources_per_worker={"CPU": 1} if cpu else {"CPU": 1, "GPU": 1},
        ),
        run_config=RunConfig(name="sft", storage_path=str(_storage(folder)), failure_config=_no_retries()),
    )


def _storage(folder: TrainingFolder) -> Path:
    """What Ray Train wants to write to; nothing that is needed lies there."""
    return folder.path / ".ray"


def _no_retries() -> Any:
    """Every kind of retry that this version of Ray Train knows, set to none."""
    from ray.train import FailureConfig

    kinds = {"max_failures", "controller_failure_limit", "max_preemption_failures"}
    return FailureConfig(**{field.name: 0 for field in fields(FailureConfig) if field.name in kinds})


def _cause(error: Exception) -> str:
    """One sentence. A rank that died is the cause; what the others say is that they miss it."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    dead = [rank for rank, failure in failures.items() if hasattr(failure, "health_check_failure")]
    rank = min(dead or failures, default=None)
    if rank is None:
        return _last_line(error)
    why = "killed, out of memory, or its node was lost" if dead else _last_line(failures[rank])
    return f"rank {rank} {'died' if dead else 'failed'}: {why}; see logs/rank-{rank}.log"


def _last_line(error: Exception) -> str:
    """Where a traceback says what it is about."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


if __name__ == "__main__":
    run_command(main)
