"""Fine-tuning by real verl in real Ray Train: what it writes, how it resumes, and how it fails."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.folder import TrainingFolder, loss_curve, read_journal
from tests.support.harness import run, start, wait_for
from tests.support.sft_runs import BATCH, STEPS_PER_EPOCH, TRAIN_ROWS, VAL_ROWS, make_sft_data, make_sft_run

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.timeout(400)]

STEPS = 2 * STEPS_PER_EPOCH
TIMEOUT = 300  # seconds for a run; one takes 15 on an idle machine


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sft_data(tmp_path_factory.mktemp("sft-data"))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingFolder:
    """A run to its end on one process, with a checkpoint a step."""
    folder = make_sft_run(data, tmp_path_factory.mktemp("sft") / "undisturbed")
    done = drive(folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def drive(folder: TrainingFolder) -> subprocess.CompletedProcess[str]:
    return run("orchestrator.training.trainer.sft_driver", str(folder.path), timeout=TIMEOUT)


def resume_from(folder: TrainingFolder, other: TrainingFolder, step: int) -> Path:
    """Put another run's checkpoint into a run folder, as the supervisor leaves it before an attempt."""
    target = checkpoints.path_of(folder.checkpoints, step)
    shutil.copytree(checkpoints.path_of(other.checkpoints, step), target)
    (folder.checkpoints / checkpoints.TRACKER).write_text(str(step))
    return target


def events(folder: TrainingFolder, event: str) -> list[dict[str, Any]]:
    return [line for line in read_journal(folder) if line["event"] == event]


def plan(folder: TrainingFolder) -> tuple[int, int]:
    line = events(folder, "plan")[-1]
    return line["total_steps"], line["resumed_from"]


def losses(folder: TrainingFolder, first: int = 1) -> list[float]:
    curve = loss_curve(folder, "train/loss")
    assert list(curve) == list(range(first, STEPS + 1))
    return list(curve.values())


@pytest.mark.slow
def test_what_makes_steps_faster_gives_the_same_losses(undisturbed: TrainingFolder, data: Path, tmp_path: Path) -> None:
    faster = ["model.use_remove_padding=True", "model.override_config.attn_implementation=packed_sdpa"]
    faster += ["data.use_dynamic_bsz=True", "engine.use_torch_compile=True"]
    faster += ["engine.reshard_after_forward=False", "engine.use_no_sync_for_gradient_accumulation=True"]
    folder = make_sft_run(data, tmp_path / "packed", *faster, "trainer.save_freq=-1")
    done = drive(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(folder) == pytest.approx(losses(undisturbed), abs=1e-4)
    log = (folder.logs / "rank-0.log").read_text()
    assert "WON'T CONVERT" not in log  # what torch says of code that it could not compile


@pytest.mark.slow
def test_two_processes_that_keep_weights_and_gradients_whole_give_the_losses_of_one(
    undisturbed: TrainingFolder, data: Path, tmp_path: Path
) -> None:
    whole = ["engine.reshard_after_forward=False", "engine.use_no_sync_for_gradient_accumulation=True"]
    whole += ["data.micro_batch_size_per_gpu=2", "trainer.save_freq=-1"]  # two micro batches a step
    folder = make_sft_run(data, tmp_path / "whole", *whole, processes=2)
    done = drive(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(folder) == pytest.approx(losses(undisturbed), abs=1e-4)


def test_a_run_is_journaled_and_its_checkpoints_are_sealed(undisturbed: TrainingFolder) -> None:
    assert plan(undisturbed) == (STEPS, 0)
    curve = losses(undisturbed)
    assert curve[-1] < 0.6 * curve[0]
    for step in (line["metrics"] for line in events(undisturbed, "step") if "train/loss" in line["metrics"]):
        assert step["train/lr"] == 3e-3 and step["train/grad_norm"] > 0 and step["train/mfu"] > 0
        assert step["tokens_per_second"] == pytest.approx(step["train/global_tokens"] / step["seconds"])
    assert list(loss_curve(undisturbed, "val/loss")) == [5, 10]
    phases = [line["phase"] for line in events(undisturbed, "phase")]
    first_epoch = ["starting", *["training", "saving"] * 4, "training", "validating", "training", "saving"]
    assert phases[: len(first_epoch)] == first_epoch and phases[-1] == "training"
    assert [line["step"] for line in events(undisturbed, "checkpoint")] == list(range(1, STEPS + 1))
    assert all(checkpoints.check(path) is None for path in undisturbed.checkpoints.glob("global_step_*"))
    log = (undisturbed.logs / "rank-0.log").read_text()
    assert f"each epoch leaves out 1 of {TRAIN_ROWS} rows: they fill no batch of {BATCH}" in log
    assert not (undisturbed.path / ".ray").exists()


@pytest.mark.parametrize("step", [3, STEPS_PER_EPOCH])
def test_a_resumed_run_gives_the_losses_of_an_undisturbed_one(
    step: int, undisturbed: TrainingFolder, data: Path, tmp_path: Path
) -> None:
    folder = make_sft_run(data, tmp_path / "run", keep_checkpoints=2)
    resume_from(folder, undisturbed, step)
    assert drive(folder).returncode == 0
    assert plan(folder) == (STEPS, step)
    assert losses(folder, step + 1) == pytest.approx(losses(undisturbed)[step:], abs=1e-5)
    assert loss_curve(folder, "val/loss")[STEPS] == pytest.approx(loss_curve(undisturbed, "val/loss")[STEPS], abs=1e-5)
    kept = {path.name for path in folder.checkpoints.glob("global_step_*")}
    assert kept == {f"global_step_{STEPS - 1}", f"global_step_{STEPS}"}


def test_two_processes_stop_on_the_flag_and_give_the_losses_of_one(
    undisturbed: TrainingFolder, data: Path, tmp_path: Path
) -> None:
    folder = make_sft_run(data, tmp_path / "run", "trainer.save_freq=100", processes=2)
    job = start("orchestrator.training.trainer.sft_driver", str(folder.path))
    wait_for(lambda: events(folder, "step"), TIMEOUT, "the first step")
    folder.ask_to_stop()
    _, err = job.communicate(timeout=TIMEOUT)
    assert (job.returncode, err) == (130, "")
    [saved] = [line["step"] for line in events(folder, "checkpoint")]
    assert saved == events(folder, "step")[-1]["step"] < STEPS
    assert checkpoints.choose(folder.checkpoints) == (saved, [])

    folder.clear()
    assert drive(folder).returncode == 0
    assert plan(folder) == (STEPS, saved)
    assert losses(folder) == pytest.approx(losses(undisturbed), abs=1e-4)

    assert drive(folder).returncode == 0  # done already: no step is added
    assert plan(folder) == (STEPS, STEPS) and len(losses(folder)) == STEPS


def test_a_killed_rank_ends_the_attempt_at_once_and_is_named(data: Path, tmp_path: Path) -> None:
    folder = make_sft_run(data, tmp_path / "run", "trainer.total_epochs=1000", "trainer.save_freq=10000", processes=2)
    job = start("orchestrator.training.trainer.sft_driver", str(folder.path))
    wait_for(lambda: events(folder, "step"), TIMEOUT, "the first step")
    victim = rank_process(folder, 1)
    victim.send_signal(signal.SIGKILL)
    began = time.monotonic()
    _, err = job.communicate(timeout=TIMEOUT)
    assert job.returncode == 1, err
    assert time.monotonic() - began < 60
    failure = folder.failure()
    assert failure and failure.kind == "other" and failure.message.startswith("rank 1 died"), failure


def rank_process(folder: TrainingFolder, rank: int) -> psutil.Process:
    log = str(folder.logs / f"rank-{rank}.log")
    for process in psutil.process_iter():
        try:
            if Path(f"/proc/{process.pid}/fd/1").readlink() == Path(log):
                return process
        except OSError:
            continue
    raise AssertionError(f"no process writes {log}")


def test_a_loss_that_is_not_finite_ends_the_run_before_its_checkpoint(data: Path, tmp_path: Path) -> None:
    folder = make_sft_run(data, tmp_path / "run", "optim.lr=1e30", processes=2)
    assert drive(folder).returncode == 1
    failure = folder.failure()
    assert failure and (failure.kind, failure.step) == ("nan", 2), failure
    assert failure.message.startswith("step 2 gave loss") and "grad_norm nan: lower optim.lr" in failure.message
    assert checkpoints.newest_good(folder.checkpoints) == 1
    assert not checkpoints.path_of(folder.checkpoints, 2).exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train_batch_size=64", f"the training set has {TRAIN_ROWS} rows, which fill no batch of"),
        pytest.param(
            "data.train_batch_size=20",
            f"the validation set has {VAL_ROWS} rows, which fill no batch of data.train_batch_size=20",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "data.max_length=20", "of the training set cannot be used: sequence_length=", marks=pytest.mark.slow
        ),
        pytest.param("data.messages_key=chat", "the data set cannot be read: KeyError: 'chat'", marks=pytest.mark.slow),
    ],
)
def test_data_that_cannot_be_trained_on_is_named(override: str, message: str, data: Path, tmp_path: Path) -> None:
    folder = make_sft_run(data, tmp_path / "run", override)
    assert drive(folder).returncode == 1
    failure = folder.failure()
    assert failure and failure.kind == "data" and message in failure.message, failure
    assert not events(folder, "step")


def test_a_checkpoint_that_does_not_load_is_named(undisturbed: TrainingFolder, data: Path, tmp_path: Path) -> None:
    folder = make_sft_run(data, tmp_path / "run")
    path = resume_from(folder, undisturbed, 3) / "model_world_size_1_rank_0.pt"
    path.write_bytes(bytes(path.stat().st_size))  # what a lost disk block looks like
    assert drive(folder).returncode == 1
    failure = folder.failure()
    assert failure and failure.kind == "checkpoint" and f"{path.parent} does not load" in failure.message, failure


def test_a_full_disk_is_named_and_leaves_no_half_checkpoint(data: Path, tmp_path: Path) -> None:
    folder = make_sft_run(data, tmp_path / "run", "trainer.save_freq=2")
    path = checkpoints.path_of(folder.checkpoints, 2)
    path.mkdir()
    (path / "optim_world_size_1_rank_0.pt").symlink_to("/dev/full")
    assert drive(folder).returncode == 1
    failure = folder.failure()
    assert failure and (failure.kind, failure.step) == ("disk", 2) and "free some space" in failure.message, failure
    assert not path.exists()


@pytest.mark.slow
def test_lora_with_gradient_checkpointing_trains_and_resumes(data: Path, tmp_path: Path) -> None:
    options = ["model.lora_rank=8", "model.lora_alpha=16", "model.enable_gradient_checkpointing=True"]
    options += ["trainer.save_freq=5", "optim.lr=3e-2"]
    folder = make_sft_run(data, tmp_path / "run", *options, processes=2)
    assert drive(folder).returncode == 0
    curve = losses(folder)
    assert curve[-1] < 0.97 * curve[0]  # the frozen weights are random, so there is little to gain
    again = make_sft_run(data, tmp_path / "again", *options, processes=2)
    saved = resume_from(again, folder, STEPS_PER_EPOCH)
    assert (saved / "lora_train_meta.json").exists()
    assert drive(again).returncode == 0
    assert losses(again, STEPS_PER_EPOCH + 1) == pytest.approx(curve[STEPS_PER_EPOCH:], abs=1e-5)


@pytest.mark.slow
def test_packed_dynamic_batches_give_the_same_losses(undisturbed: TrainingFolder, data: Path, tmp_path: Path) -> None:
    options = ["data.use_dynamic_bsz=True", "model.use_remove_padding=True", "trainer.save_freq=100"]
    folder = make_sft_run(data, tmp_path / "run", *options, processes=2)
    assert drive(folder).returncode == 0
    assert losses(folder) == pytest.approx(losses(undisturbed), abs=1e-4)
