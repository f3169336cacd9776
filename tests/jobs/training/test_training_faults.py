"""Trainings whose parts are killed, whose disk is full, whose checkpoint is broken: they end where they would have."""

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from orchestrator.training.folder import TrainingFolder, loss_curve
from tests.support.harness import cluster_processes, run, start, wait_for
from tests.support.sft_runs import events, steps_done
from tests.support.tiny_model import make_tiny_model, write_sums

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 40  # eight epochs of five, so that what is killed is not done yet; a checkpoint every second step


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and forty sums."""
    folder = tmp_path_factory.mktemp("faults")
    make_tiny_model(folder / "model")
    write_sums(folder / "train.jsonl", 40)
    return folder


@pytest.fixture(scope="module")
def undisturbed(base: Path) -> dict[int, float]:
    """The loss by step of a run that nothing happened to."""
    done = run("jobs.sft", *options(base, base / "undisturbed"), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = loss_curve(TrainingFolder(base / "undisturbed"), "train/loss")
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1] / 1.5  # it learned something
    return losses


def options(base: Path, folder: Path) -> list[str]:
    data = [f"model={base / 'model'}", f"train={base / 'train.jsonl'}", f"run={folder}", "workers=2"]
    size = ["batch_size=8", "micro_batch_size=4", "max_length=64", "epochs=8", "lr=3e-3", "save_every=2"]
    return [*data, *size, "keep_checkpoints=3"]


def begin(base: Path, folder: Path, step: int) -> "subprocess.Popen[str]":
    """A run that has done `step` steps."""
    job = start("jobs.sft", *options(base, folder))
    wait_for(lambda: step in steps_done(folder) or job.poll() is not None, 300, f"step {step}")
    assert job.poll() is None, job.communicate()
    return job


def assert_same_curve(folder: Path, undisturbed: dict[int, float]) -> None:
    found = loss_curve(TrainingFolder(folder), "train/loss")
    assert found == pytest.approx(undisturbed, abs=1e-5)


def test_a_killed_worker_costs_some_steps_and_no_loss(base: Path, undisturbed: dict[int, float]) -> None:
    folder = base / "worker"
    job = begin(base, folder, 3)
    workers = [p for p in cluster_processes("RayTrainWorker") if p.status() != psutil.STATUS_ZOMBIE]
    workers[-1].kill()
    out, err = job.communicate(timeout=400)
    assert job.returncode == 0, out + err
    [first, second] = events(folder, "attempt_started")
    assert first["resumed_from"] is None and second["resumed_from"] in range(2, STEPS, 2)
    [failed, _] = events(folder, "attempt_ended")
    assert "died" in failed["failure"]["message"]
    assert_same_curve(folder, undisturbed)


def test_a_killed_job_goes_on_with_the_same_command(base: Path, undisturbed: dict[int, float]) -> None:
    folder = base / "driver"
    job = begin(base, folder, 5)
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    done = run("jobs.sft", *options(base, folder), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert events(folder, "attempt_started")[-1]["resumed_from"] in range(4, STEPS, 2)
    assert_same_curve(folder, undisturbed)


def test_a_stopped_job_saves_first(base: Path, undisturbed: dict[int, float]) -> None:
    folder = base / "stopped"
    job = begin(base, folder, 3)
    os.kill(job.pid, signal.SIGTERM)
    job.communicate(timeout=200)
    assert job.returncode == 130
    last = max(steps_done(folder))
    assert events(folder, "stopped")[-1]["step"] == last  # nothing is done twice
    done = run("jobs.sft", *options(base, folder), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps_done(folder) == list(range(1, STEPS + 1))
    assert_same_curve(folder, undisturbed)


def test_a_broken_checkpoint_gives_way_to_the_one_before(base: Path, undisturbed: dict[int, float]) -> None:
    folder = base / "broken"
    job = begin(base, folder, 7)
    os.kill(job.pid, signal.SIGTERM)
    job.communicate(timeout=200)
    checkpoints = sorted((folder / "checkpoints").glob("global_step_*"), key=lambda path: int(path.name[12:]))
    model = next(checkpoints[-1].glob("model_world_size_2_rank_1.pt"))
    size = model.stat().st_size
    with model.open("r+b") as file:  # the file keeps its size and its table of contents: only loading finds out
        file.seek(size // 4)
        file.write(os.urandom(size // 4))
    done = run("jobs.sft", *options(base, folder), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert checkpoints[-1].name in events(folder, "set_aside")[-1]["reason"]
    assert events(folder, "attempt_started")[-1]["resumed_from"] == int(checkpoints[-2].name[12:])
    assert_same_curve(folder, undisturbed)


def test_a_full_disk_is_said_and_nothing_is_lost(base: Path, undisturbed: dict[int, float]) -> None:
    folder = base / "full"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=False).returncode:
        pytest.skip("this user cannot mount a small file system")
    try:
        done = run("jobs.sft", *options(base, folder), timeout=400)
        assert done.returncode == 4, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert "room" in done.stderr or "full" in done.stderr or "space" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
        done = run("jobs.sft", *options(base, folder), timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same_curve(folder, undisturbed)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
