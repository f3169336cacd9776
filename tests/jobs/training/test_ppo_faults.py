"""Reinforcement learning whose parts are killed: it does every step, and asks every prompt once an epoch."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.environment import FOLDER_VARIABLE
from orchestrator.training.folder import TrainingFolder, loss_curve
from tests.support.harness import processes_titled, records, run, start, wait_for
from tests.support.sft_runs import events, steps_done
from tests.support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow, pytest.mark.timeout(1800)]
EPOCHS, STEPS_PER_EPOCH, BATCH = 2, 8, 4
STEPS = EPOCHS * STEPS_PER_EPOCH
SAVE_EVERY = 4
LATE = 2  # steps after a checkpoint, when something happens: the next one is not being saved yet
TIMEOUT = 600.0  # seconds for an attempt or two on a busy machine
REWARD = """\
import time
from pathlib import Path

def digits(data_source, solution_str, ground_truth, extra_info=None):
    with Path(__file__).with_name("calls").open("a") as calls:
        calls.write(".")
    time.sleep(0.3)
    return sum(letter.isdigit() for letter in solution_str) / 4
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a reward, and questions that are all different and fill the batches of an epoch."""
    folder = tmp_path_factory.mktemp("ppo_faults")
    make_tiny_model(folder / "model")
    rows = [{"question": f"{number}+1=?", "answer": str(number + 1)} for number in range(STEPS_PER_EPOCH * BATCH)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD)
    return folder


def options(base: Path, folder: Path) -> list[str]:
    data = [f"model={base / 'model'}", f"train={base / 'train.jsonl'}", f"reward={base / 'reward.py'}:digits"]
    size = [f"batch_size={BATCH}", f"epochs={EPOCHS}", f"save_every={SAVE_EVERY}", "keep_checkpoints=2"]
    rollout = ["rollout.n=2", "rollout.max_prompt_length=48", "rollout.max_response_length=4"]
    return [*data, *size, *rollout, f"run={folder}", f"verl.trainer.rollout_data_dir={folder / 'rollouts'}"]


def begin(base: Path, folder: Path) -> "subprocess.Popen[str]":
    """A run that is past its first checkpoint."""
    job = start("jobs.ppo", *options(base, folder))
    await_step(job, folder, SAVE_EVERY + LATE)
    return job


def await_step(job: "subprocess.Popen[str]", folder: Path, step: int) -> None:
    wait_for(lambda: step in steps_done(folder) or job.poll() is not None, TIMEOUT, f"step {step}")
    assert job.poll() is None, job.communicate()


def await_sampling(base: Path) -> None:
    """Until answers are being rewarded, which takes long enough for something to happen meanwhile."""
    calls = base / "calls"
    before = calls.stat().st_size
    wait_for(lambda: calls.stat().st_size > before, TIMEOUT, "a reward")


def process(folder: Path, title: str) -> psutil.Process:
    """The one living process of this training with such a title."""
    found = []
    for candidate in processes_titled(title):
        with suppress(psutil.NoSuchProcess):
            if str(folder) in (candidate.environ().get(FOLDER_VARIABLE), *candidate.cmdline()):
                found.append(candidate)
    assert len(found) == 1, found
    return found[0]


def assert_complete(folder: Path) -> None:
    """Sampling is random, so rewards differ from run to run; this is what is the same in all."""
    assert list(loss_curve(TrainingFolder(folder), "critic/score/mean")) == list(range(1, STEPS + 1))
    found = sorted(path.name for path in (folder / "checkpoints").glob("global_step_*"))
    assert found == sorted(f"global_step_{step}" for step in (STEPS - SAVE_EVERY, STEPS))
    assert checkpoints.newest_good(folder / "checkpoints") == STEPS
    for epoch in range(EPOCHS):
        steps = range(epoch * STEPS_PER_EPOCH + 1, (epoch + 1) * STEPS_PER_EPOCH + 1)
        asked = [{line["input"] for line in records(folder / "rollouts" / f"{step}.jsonl")} for step in steps]
        assert [len(prompts) for prompts in asked] == [BATCH] * STEPS_PER_EPOCH
        assert len(set.union(*asked)) == STEPS_PER_EPOCH * BATCH  # none twice


def test_killed_processes_cost_some_steps(base: Path) -> None:
    folder = base / "killed"
    job = start("jobs.ppo", *options(base, folder))
    checkpoint = SAVE_EVERY
    # The process that trains, the one that hands the answers on, and the driver, whose queue has one name a cluster.
    for title in ("ray::WorkerDict", "ray::AgentLoopWorker", "-m orchestrator.training.trainer.ppo_driver"):
        await_step(job, folder, checkpoint + 1)
        victim = process(folder, title)
        await_step(job, folder, checkpoint + LATE)
        await_sampling(base)
        victim.kill()
        checkpoint += SAVE_EVERY
    out, err = job.communicate(timeout=TIMEOUT)
    assert job.returncode == 0, out + err
    starts = [line["resumed_from"] for line in events(folder, "attempt_started")]
    assert starts == [None, *range(SAVE_EVERY, STEPS, SAVE_EVERY)]
    *failures, last = [line["failure"] for line in events(folder, "attempt_ended")]
    assert last is None
    seen = ("ActorDiedError", "ActorDiedError", "SIGKILL")
    assert all(text in failure["message"] for text, failure in zip(seen, failures, strict=True)), failures
    assert_complete(folder)


def test_a_killed_job_goes_on_with_the_same_command(base: Path) -> None:
    folder = base / "job"
    job = begin(base, folder)
    job.kill()
    job.communicate()
    done = run("jobs.ppo", *options(base, folder), timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    [_, second] = events(folder, "attempt_started")
    assert second["resumed_from"] == SAVE_EVERY
    assert_complete(folder)


def test_a_stopped_job_saves_first(base: Path) -> None:
    folder = base / "stopped"
    job = begin(base, folder)
    job.terminate()
    out, err = job.communicate(timeout=TIMEOUT)
    assert job.returncode == 130, out + err
    last = max(steps_done(folder))
    assert last < STEPS
    assert events(folder, "stopped")[-1]["step"] == last == checkpoints.newest_good(folder / "checkpoints")
    done = run("jobs.ppo", *options(base, folder), timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps_done(folder) == list(range(1, STEPS + 1))  # none twice
    assert_complete(folder)
