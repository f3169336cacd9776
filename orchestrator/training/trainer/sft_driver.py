"""Supervised fine-tuning by verl inside Ray Train: python -m orchestrator.training.trainer.sft_driver RUN_FOLDER.

Ray Train places one process a GPU, each of which reads its own share of the data, and ends all of them at once when
one fails. It tries nothing again, and keeps nothing that resuming needs: both are the supervisor's.
"""

import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import ray

from orchestrator import secrets
from orchestrator.errors import COMPLETE, INTERRUPTED, KosenError, Parser, run_command
from orchestrator.ray_cluster.connect import connect
from orchestrator.training.environment import worker_env
from orchestrator.training.folder import Failure, Journal, TrainingFolder
from orchestrator.training.trainer import ray_train
from orchestrator.training.trainer.sft_worker import RankOrder, read_config, train

FAILED = 1
COLLECTIVE_TIMEOUT = 1800  # seconds that a rank waits for the others before it ends the attempt
KEYS = ("WANDB_API_KEY", "HF_TOKEN")  # a cluster's workers have the environment of whoever started the cluster


def main() -> int:
    """Exit code 0 when all steps are done, 130 when the stop flag ended them, 1 when something failed."""
    parser = Parser(prog="python -m orchestrator.training.trainer.sft_driver", description=__doc__)
    parser.add_argument("run_folder", type=Path)
    folder = TrainingFolder(parser.parse_args().run_folder.absolute())
    config, _ = read_config(folder)
    Journal(folder).phase("starting")
    os.environ.update(ray_train.SETTINGS)
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
        return FAILED  # stopped at once: there may be no checkpoint of the last step
    finally:
        shutil.rmtree(_storage(folder), ignore_errors=True)
    return INTERRUPTED if result.return_value else COMPLETE


def _trainer(folder: TrainingFolder, config: Any) -> Any:
    cpu = config.trainer.device == "cpu"
    keys = {name: value for name in KEYS if (value := secrets.find(name))}
    return ray_train.trainer(
        partial(train, RankOrder(folder, worker_env(cpu, folder.path), keys)),
        name="sft",
        workers=config.trainer.nnodes * config.trainer.n_gpus_per_node,
        cpu=cpu,
        timeout=COLLECTIVE_TIMEOUT,
        storage=_storage(folder),
    )


def _storage(folder: TrainingFolder) -> Path:
    """What Ray Train wants to write to; nothing that is needed lies there."""
    return folder.path / ".ray"


def _cause(error: Exception) -> str:
    rank, why = ray_train.cause(error)
    return why if rank is None else f"{why}; see logs/rank-{rank}.log"


if __name__ == "__main__":
    run_command(main)
