"""Runs one attempt at a PPO training, as its verl.yaml says.

python -m orchestrator.training.trainer.ppo_driver RUN_FOLDER

Exit codes: 0 all steps are done, 130 stopped on request with a checkpoint saved, 1 failed; failure.json says why.
"""

import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf

from orchestrator.errors import (
    COMPLETE,
    INTERRUPTED,
    ClusterNotReady,
    KosenError,
    Parser,
    exit_with,
    interrupt_on_sigterm,
)
from orchestrator.ray_cluster.connect import connect
from orchestrator.training.causes import sentence
from orchestrator.training.environment import worker_env
from orchestrator.training.folder import Failure, Journal, TrainingFolder, read_journal

FAILED = 1
QUEUE = {"name": "TransferQueueController", "namespace": "transfer_queue"}  # verl's actor of a fixed name
QUEUE_TIMEOUT = 120.0  # seconds that the actors of an attempt that was killed may take to exit


def main() -> int:
    parser = Parser(prog="ppo_driver", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    folder = TrainingFolder(parser.parse_args().folder.absolute())
    interrupt_on_sigterm()
    try:
        with _reported(folder):
            train(folder)
    except KeyboardInterrupt:
        print("interrupted: what was trained since the last checkpoint is lost", file=sys.stderr)
        return FAILED
    except KosenError as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return FAILED
    return COMPLETE if _all_steps_done(folder) else INTERRUPTED


def train(folder: TrainingFolder) -> None:
    """Run verl's trainer on the cluster until it ends."""
    Journal(folder).phase("starting")
    config = OmegaConf.load(folder.verl_config)
    assert isinstance(config, DictConfig)
    own = worker_env(config.trainer.device == "cpu", folder.path)
    os.environ.update(own)  # before verl is imported
    os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # workers' lines go into a log file
    _check(config)
    # The actors of two trainings on one cluster have the same names, so each has a namespace.
    namespace = f"training-{uuid.uuid4().hex[:8]}"
    with connect(namespace=namespace, env_vars=_verl_env(config) | own, log_to_driver=True):
        _wait_for_queue()
        from verl.trainer.main_ppo import run_ppo

        from orchestrator.training.trainer.ppo_trainer import TaskRunnerActor

        run_ppo(config, TaskRunnerActor)


def _check(config: DictConfig) -> None:
    """verl's own validation. Raises ValueError, AssertionError and the like."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    validate_config(config, need_reference_policy(config), need_critic(config))


def _verl_env(config: DictConfig) -> dict[str, str]:
    """What verl's `run_ppo` gives to its workers where it starts Ray itself."""
    from verl.trainer import constants_ppo

    if config.actor_rollout_ref.rollout.full_determinism:
        seed = str(config.actor_rollout_ref.rollout.seed)
        os.environ |= {"VERL_FULL_DETERMINISM": "1", "VLLM_BATCH_INVARIANT": "1", "PYTHONHASHSEED": seed}
    # verl leaves out what its own environment has, which workers of a cluster that runs already do not inherit.
    defaults: dict[str, str] = constants_ppo.PPO_RAY_RUNTIME_ENV["env_vars"]
    kept = {name: os.environ.get(name, value) for name, value in defaults.items()}
    chosen: Any = constants_ppo.get_ppo_ray_runtime_env
    return kept | chosen(config)["env_vars"] | {"TRANSFER_QUEUE_ENABLE": "1"}


def _wait_for_queue() -> None:
    """Two trainings would share verl's queue and train on each other's answers, so a cluster takes one at a time."""
    deadline = time.monotonic() + QUEUE_TIMEOUT
    while QUEUE in ray.util.list_named_actors(all_namespaces=True):
        if time.monotonic() > deadline:
            raise ClusterNotReady(
                "another PPO training runs on this cluster, and verl's queue serves only one. Wait until it has ended "
                "(ray job list), or use another cluster"
            )
        time.sleep(1.0)


@contextmanager
def _reported(folder: TrainingFolder) -> Iterator[None]:
    """A failure that no code nearer to it has named is reported by its error."""
    try:
        yield
    except Exception as error:
        folder.report_failure(Failure("other", sentence(error)))
        raise


def _all_steps_done(folder: TrainingFolder) -> bool:
    journal = read_journal(folder)
    plan = max(index for index, line in enumerate(journal) if line["event"] == "plan")
    steps = [line["step"] for line in journal[plan:] if line["event"] == "step"]
    last = max(steps, default=journal[plan]["resumed_from"])
    return bool(last >= journal[plan]["total_steps"])


if __name__ == "__main__":
    exit_with(main())
