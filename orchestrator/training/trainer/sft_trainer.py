"""verl's SFTTrainer, watched: a journal, a stop flag, and an end with a reason where verl would continue in silence.

Its `__init__` and `fit` stay verl's. What they call (building the data, a training step, saving, logging) is what we
go around. Import this only when verl's environment is set.
"""

import math
import shutil
import time
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from verl.trainer import sft_trainer
from verl.utils import tensordict_utils

from orchestrator.spec import first_line
from orchestrator.training.causes import disk_is_full
from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.folder import Failure, Journal, Phase, TrainingFolder
from orchestrator.training.trainer.sft_dataset import Rows
from orchestrator.training.trainer.trackers import open_trackers
from orchestrator.training.verl_plugin.patches import compile_layers, gather_once

GO_ON, STOP, NOT_FINITE = range(3)  # what rank 0 sends to all others after a step
WRITE_FAILED = ("PytorchStreamWriter failed", "unexpected pos")  # torch.save on a disk that takes no more


class Trainer(sft_trainer.SFTTrainer):
    """One rank. All ranks take each decision together; rank 0 alone checks, decides and writes."""

    train_dataset: Any
    val_dataset: Any

    def __init__(self, config: DictConfig, folder: TrainingFolder, keep_checkpoints: int | None) -> None:
        self.folder, self.keep_checkpoints = folder, keep_checkpoints
        self.recorder = StepJournal(Journal(folder)) if dist.get_rank() == 0 else None
        self.step = 0
        self.stopped = False
        torch.manual_seed(config.trainer.seed + dist.get_rank())  # verl reads the key nowhere: LoRA's start, dropout
        super().__init__(config)
        self.step = self.resume_global_step

    def run(self) -> bool:
        """Train what is left; whether the stop flag ended it before the last step."""
        if self.recorder:
            self.recorder.journal.total(self.total_training_steps, self.resume_global_step)
            sft_trainer.Tracking = self.recorder.open  # fit looks it up there
        if self.resume_global_step < self.total_training_steps:  # else verl trains one step too many
            self._enter("training")
            try:
                self.fit()
            except OSError as error:  # of the journal, or of a logger
                if disk_is_full(error, self.folder.path):
                    self._report_disk(error)
                raise
            if self.step < self.total_training_steps:
                raise RuntimeError(f"verl ended after step {self.step} of {self.total_training_steps}")
        if self.recorder:
            self.recorder.close()
        return self.stopped

    # --- data ---

    def _build_dataset(self) -> None:
        try:
            super()._build_dataset()
        except Exception as error:
            reason = f"the data set cannot be read: {type(error).__name__}: {first_line(error)}"
            self.folder.report_failure(Failure("data", reason))
            raise
        self.train_dataset = Rows(self.train_dataset, "training", self.folder)
        if self.val_dataset is not None:
            self.val_dataset = Rows(self.val_dataset, "validation", self.folder)

    def _build_dataloader(self) -> None:
        super()._build_dataloader()
        batch, ranks = self.global_batch_size, self.engine.get_data_parallel_size()
        if batch % ranks:
            self._refuse_data(f"data.train_batch_size={batch} cannot be divided among {ranks} processes")
        if len(self.train_dataloader) == 0:
            self._refuse_data(_too_small("training", len(self.train_dataset), batch, ranks))
        if self.val_dataloader is not None and len(self.val_dataloader) == 0:
            self._refuse_data(_too_small("validation", len(self.val_dataset), batch, ranks))
        self._plan(batch)

    def _plan(self, batch: int) -> None:
        """verl would end without its last checkpoint where the epochs have fewer steps than were asked for."""
        trainer = self.config.trainer
        possible = len(self.train_dataloader) * trainer.total_epochs
        trainer.total_training_steps = min(trainer.total_training_steps or possible, possible)
        left_out = len(self.train_dataset) - len(self.train_dataloader) * batch
        if self.rank == 0 and left_out:
            print(f"each epoch leaves out {left_out} of {len(self.train_dataset)} rows: they fill no batch of {batch}")

    def _init_engine(self) -> None:
        super()._init_engine()
        if self.config.engine.use_torch_compile:
            compile_layers(self.engine.module)
        if self.config.engine.strategy == "fsdp2" and not self.config.engine.reshard_after_forward:
            gather_once(self.engine)
        if self.val_dataloader is None:
            self.test_freq = -1  # verl would iterate over nothing

    def _refuse_data(self, reason: str) -> NoReturn:
        self.folder.report_failure(Failure("data", reason))
        raise ValueError(reason)

    # --- steps ---

    def _build_engine(self) -> None:
        super()._build_engine()
        client = self.training_client
        self._verl_train_batch, self._verl_infer_batch = client.train_batch, client.infer_batch
        client.train_batch, client.infer_batch = self._train_batch, self._infer_batch

    def _train_batch(self, data: Any) -> Any:
        """A step of verl's; then all ranks agree whether to continue, so that none waits for another that has left."""
        output = self._verl_train_batch(data=data)
        self.step += 1
        verdict = torch.tensor(self._judge(output) if self.rank == 0 else GO_ON)
        dist.broadcast(verdict, src=0)
        if verdict == NOT_FINITE:
            raise FloatingPointError(f"step {self.step}: loss or gradient is not finite")
        if verdict == STOP and self.step < self.total_training_steps:
            self._end_here()
        return output

    def _judge(self, output: Any) -> int:
        metrics = tensordict_utils.get(output, "metrics")
        scaled = getattr(self.engine, "scaler", None) is not None  # then an infinite gradient only lowers the scale
        figures = {name: metrics[name] for name in ("loss", "grad_norm") if name in metrics}
        wrong = [name for name, value in figures.items() if not math.isfinite(value)]
        if wrong and not (scaled and wrong == ["grad_norm"]):
            seen = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            reason = f"step {self.step} gave {seen}: lower optim.lr, or look for broken rows in the data"
            self.folder.report_failure(Failure("nan", reason, self.step))
            return NOT_FINITE
        return STOP if self.folder.stop_asked() else GO_ON

    def _end_here(self) -> None:
        """Make this step the last one: verl then saves and returns, and may not validate first."""
        self.stopped = True
        self.total_training_steps = self.step
        self.val_dataloader, self.test_freq = None, -1

    def _infer_batch(self, data: Any) -> Any:
        self._enter("validating")
        return self._verl_infer_batch(data)

    def _enter(self, phase: Phase) -> None:
        if self.recorder:
            self.recorder.enter(phase)

    # --- checkpoints ---

    def _build_ckpt_handler(self) -> None:
        super()._build_ckpt_handler()
        handler = self.ckpt_handler
        self._verl_load, self._verl_save = handler.load_checkpoint, handler.save_checkpoint
        handler.load_checkpoint, handler.save_checkpoint = self._load, self._save

    def _load(self) -> int:
        try:
            step: int = self._verl_load()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            path = self.ckpt_handler._determine_resume_path()
            self.folder.report_failure(Failure("checkpoint", f"{path} does not load: {first_line(error)}"))
            raise
        if step % self.steps_per_epoch == 0:
            # verl 0.9.1 puts the data loader at the end of the epoch that is over, and the next one stays empty.
            self.train_dataloader.next_iter_state = None
        return step

    def _save(self, step: int) -> None:
        self._enter("saving")
        path = checkpoints.path_of(self.folder.checkpoints, step)
        try:
            self._verl_save(step=step)  # all ranks are done when it returns
            if self.recorder:
                checkpoints.seal(path)
        except Exception as error:
            if _is_full(error, self.folder.path):
                shutil.rmtree(path, ignore_errors=True)  # worth nothing, and the report may need its space
                self._report_disk(error)
            raise
        if self.recorder:
            self.recorder.journal.checkpoint(step)
            checkpoints.prune(self.folder.checkpoints, self.keep_checkpoints)
        self._enter("training")

    def _report_disk(self, error: Exception) -> None:
        reason = f"{self.folder.path} cannot be written ({first_line(error)}): free some space there"
        self.folder.report_failure(Failure("disk", reason, self.step))


class StepJournal:
    """Before verl's Tracking on rank 0: adds what a step took, and writes everything to the journal as well."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._tracking: Any = None
        self._phase: Phase = "starting"
        self._since = time.monotonic()

    def open(self, **arguments: Any) -> "StepJournal":
        """In the place of verl's `Tracking(...)`."""
        self._tracking = open_trackers(**arguments)
        self._since = time.monotonic()
        return self

    def enter(self, phase: Phase) -> None:
        if phase != self._phase:
            self.journal.phase(phase)
            self._phase, self._since = phase, time.monotonic()

    def log(self, data: dict[str, Any], step: int) -> None:
        """A step's or a validation's figures. `seconds` counts from the last step, validation or save to here."""
        if "train/loss" in data:
            data["seconds"] = time.monotonic() - self._since
            data["tokens_per_second"] = data["train/global_tokens"] / data["seconds"]
        self.journal.step(step, {name: value for name, value in data.items() if isinstance(value, int | float)})
        assert self._tracking
        self._tracking.log(data=data, step=step)
        self.enter("training")
        self._since = time.monotonic()

    def close(self) -> None:
        if self._tracking:
            self._tracking.finish()


def _is_full(error: Exception, folder: Path) -> bool:
    """Whether saving failed for want of space, or by another refusal of the disk, which torch reports alike."""
    return disk_is_full(error, folder) or any(text in str(error) for text in WRITE_FAILED)


def _too_small(name: str, rows: int, batch: int, ranks: int) -> str:
    """verl drops what does not fill a batch, which may be everything."""
    whose = f" ({ranks} processes take {batch // ranks} rows each)" if ranks > 1 else ""
    return f"the {name} set has {rows} rows, which fill no batch of data.train_batch_size={batch}{whose}"
