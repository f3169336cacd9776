"""verl's synchronous PPO trainer with our hooks: journal, sealed checkpoints, the stop flag, failures that are named.

verl's loop stays verl's. It runs in a Ray actor, `TaskRunner`, which may be on another node than the driver.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import ray
from omegaconf import DictConfig
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from orchestrator.errors import KosenError
from orchestrator.training.causes import disk_is_full, sentence
from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.environment import training_folder
from orchestrator.training.folder import Failure, FailureKind, Journal
from orchestrator.training.trainer.trackers import open_trackers

TRAINER_MODE = "kosen"  # verl's trainer.v1.trainer_mode that chooses this trainer
POLL_INTERVAL = 0.25  # seconds between polls for finished answers; verl's 2 s would be lost in each step
NUMBERS = ("loss", "grad_norm", "entropy")  # ends of the metrics that must be finite
VerlTrainer: Any = PPOTrainerSync  # untyped
VerlTaskRunner: Any = cast(Any, TaskRunnerV1).__ray_metadata__.modified_class  # the class behind Ray's decorator


class TrainingEnded(KosenError):
    """The failure that ends this attempt; it is in the run folder too."""


@register_trainer(TRAINER_MODE)
class KosenTrainer(VerlTrainer):
    """Each method is verl's hook or step of the same name, with what we add before or after it."""

    total_training_steps: int

    def __init__(self, config: DictConfig) -> None:
        folder = training_folder()
        assert folder, "the driver gives the run folder to all workers"
        self._folder, self._journal = folder, Journal(folder)
        self._saved_step: int | None = None
        self._began = False
        config.trainer.v1.trainer_mode = "sync"  # verl decides by this name what a synchronous trainer needs
        super().__init__(config)
        buffer = self.replay_buffer
        buffer.poll_interval = POLL_INTERVAL
        self._verl_wait, buffer._wait_for_next_poll = buffer._wait_for_next_poll, self._wait_for_answers
        self._probes: list[Any] = []
        trainer_base.Tracking = open_trackers  # fit looks it up there

    def fit(self, *arguments: Any) -> None:
        super().fit(*arguments)
        self.logger.finish()  # verl leaves it to the end of the process, which is a kill

    def _init_dataloader(self) -> None:
        with self._named("data"):
            super()._init_dataloader()
        if self.steps_per_epoch == 0:
            rows, batch = len(self.train_dataset), self.config.data.train_batch_size
            self._fail("data", f"the training data has {rows} usable rows, fewer than a batch of {batch}")

    def _load_checkpoint(self) -> None:
        with self._named("checkpoint"):
            super()._load_checkpoint()
        self._journal.total(self.total_training_steps, self.global_steps)

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._began = True
        self._journal.phase("training")

    def _wait_for_answers(self, *arguments: Any) -> float:
        """Between two polls for answers. verl would wait forever for those of a worker that has died."""
        workers = self.agent_loop_manager.agent_loop_workers
        self._probes = self._probes or [worker.__ray_ready__.remote() for worker in workers]
        answered, self._probes = ray.wait(self._probes, num_returns=len(self._probes), timeout=0)
        ray.get(answered)  # raises ActorDiedError
        last_report: float = self._verl_wait(*arguments)
        return last_report

    def on_sample_end(self) -> None:
        super().on_sample_end()
        self._end_if_samples_failed("train")

    def _validate(self) -> dict[str, float]:
        self._journal.phase("validating")
        try:
            metrics: dict[str, float] = super()._validate()
        finally:
            self._end_if_samples_failed("val")  # also where verl stumbles over what is missing
        if not self._began:  # later verl adds them to the step's metrics
            self._journal.step(self.global_steps, metrics)
        self._journal.phase("training")
        return metrics

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        batch = super().step(metrics, timing_raw)
        broken = {name: value for name, value in metrics.items() if _must_be_finite(name) and not math.isfinite(value)}
        if broken:
            found = ", ".join(f"{name} is {value}" for name, value in broken.items())
            self._fail("nan", f"step {self.global_steps}: {found}. Lower the learning rates, or check the rewards")
        return batch

    def _save_checkpoint(self) -> None:
        self._journal.phase("saving")
        root = Path(self.config.trainer.default_local_dir)
        with self._named("checkpoint"):
            super()._save_checkpoint()
            checkpoints.seal(checkpoints.path_of(root, self.global_steps))
        self._saved_step = self.global_steps
        self._journal.checkpoint(self.global_steps)
        checkpoints.prune(root, self.config.kosen.keep_checkpoints)
        self._journal.phase("training")

    def on_step_end(self) -> None:
        if self._folder.stop_asked() and self.global_steps < self.total_training_steps:
            if self._saved_step != self.global_steps:
                self._save_checkpoint()
            self.total_training_steps = self.global_steps  # verl's loop ends after this step, as after its last one
            self.config.trainer.test_freq = -1  # who stops may not have the time to validate
        super().on_step_end()

    def _compute_metrics(self, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        numbers = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
        self._journal.step(self.global_steps, numbers)

    def _end_if_samples_failed(self, partition: str) -> None:
        """Where a reward or an answer fails, verl would train on what is left of the batch and not say so."""
        failure = self._folder.failure()
        if failure:
            raise TrainingEnded(failure.message)
        lost = len(self.replay_buffer.failure_keys[partition])
        if lost:
            self._fail(
                "other", f"{lost} prompts of step {self.global_steps} got no answer; the rollout's error is in the log"
            )

    @contextmanager
    def _named(self, kind: FailureKind) -> Iterator[None]:
        """An error in this block is a failure of this kind, unless the disk is full."""
        try:
            yield
        except Exception as error:
            if disk_is_full(error, self._folder.path):
                self._report("disk", f"the disk of {self._folder.path} is full ({sentence(error)})")
            self._report(kind, sentence(error))
            raise

    def _fail(self, kind: FailureKind, message: str) -> None:
        self._report(kind, message)
        raise TrainingEnded(message)

    def _report(self, kind: FailureKind, message: str) -> None:
        self._folder.report_failure(Failure(kind, message, getattr(self, "global_steps", None)))


class TaskRunner(VerlTaskRunner):
    """verl's task runner, in a module whose import registers our trainer."""


TaskRunnerActor = ray.remote(TaskRunner)


def _must_be_finite(metric: str) -> bool:
    return metric.startswith(("actor/", "critic/")) and metric.endswith(NUMBERS)
