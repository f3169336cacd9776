"""The supervisor with real trainers as processes, which fail in every way that it is there for."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.files import REPOSITORY
from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.folder import TrainingFolder, loss_curve
from tests.support.harness import records, wait_for
from tests.support.scripted_trainer import LACK

SILENCE = 3.0  # seconds after which a trainer counts as hung, where a test wants that
LONG = 60.0


class Job:
    """A supervisor's run folder, and its job as often as it is started."""

    def __init__(self, path: Path) -> None:
        self.folder = TrainingFolder(path)
        self._processes: list[subprocess.Popen[str]] = []

    def script(self, behaviour: str) -> None:
        self.folder.path.mkdir(exist_ok=True)
        (self.folder.path / "behaviour").write_text(behaviour)
        if not self.folder.verl_config.exists():
            self.folder.verl_config.write_text("trainer: {total_epochs: 1}\n")

    def start(self, timeout: float = LONG, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.supervised", str(self.folder.path), str(timeout)],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def run(self, behaviour: str, timeout: float = LONG, **environment: str) -> tuple[int, str]:
        """Its exit code and what it printed."""
        self.script(behaviour)
        process = self.start(timeout, **environment)
        text = process.communicate(timeout=100)[0]
        return process.returncode, text

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in records(self.folder.path / "events.jsonl") if line["event"] == name]

    def resumed(self) -> list[int | None]:
        return [line["resumed_from"] for line in self.events("attempt_started")]

    @property
    def lack(self) -> Path:
        """What the cluster lacks, while there is such a file."""
        return self.folder.path / "lack"

    def await_wait(self, number: int = 1) -> None:
        wait_for(lambda: len(self.events("waiting")) == number, 30, f"wait number {number} for a node")

    def metrics(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads((self.folder.path / "metrics.json").read_text())
        return values

    def pid(self, name: str = "pid") -> int:
        path = self.folder.path / name
        return int(wait_for(lambda: path.exists() and path.read_text(), 30, f"{path.name} of the trainer"))

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path / "run")
    yield job
    job.end()


def gone(pid: int) -> bool:
    """Whether a process has ended; where no one reaps them, it stays as a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def is_finished(job: Job) -> bool:
    whole = checkpoints.newest_good(job.folder.checkpoints) == 6
    return whole and set(loss_curve(job.folder, "train/loss")) == set(range(1, 7))


def test_a_training_that_goes_well(job: Job) -> None:
    code, text = job.run("well")
    assert code == 0, text
    assert is_finished(job) and "finished: step 6, attempts: 1" in text
    metrics = job.metrics()
    assert metrics.pop("seconds") > 0 and metrics.pop("config")
    assert metrics == {
        "step": 6,
        "loss": 1 / 6,
        "val_loss": None,
        "score": None,
        "val_score": None,
        "attempts": 1,
        "checkpoint": str(job.folder.checkpoints / "global_step_6"),
    }
    assert [line["event"] for line in records(job.folder.path / "events.jsonl")] == [
        "attempt_started",
        "attempt_ended",
        "finished",
    ]


def test_a_finished_training_is_not_done_again(job: Job) -> None:
    job.run("well")
    code, text = job.run("crash@1")
    assert code == 0 and "this training is finished" in text
    (job.folder.path / "metrics.json").unlink()  # as if killed just before it could be written
    code, text = job.run("crash@1")
    assert code == 0 and job.metrics()["step"] == 6
    assert len(job.events("attempt_started")) == 1


def test_a_finished_training_with_another_configuration_goes_on(job: Job) -> None:
    job.run("well")
    job.folder.verl_config.write_text("trainer: {total_epochs: 2}\n")
    assert job.run("well")[0] == 0
    assert job.resumed() == [None, 6]


def test_failures_are_tried_again_from_the_newest_checkpoint(job: Job) -> None:
    code, text = job.run("crash@1 crash@3 killed@5 well")
    assert code == 0, text
    assert is_finished(job) and job.resumed() == [None, None, 2, 4]
    assert "RuntimeError: the scripted crash" in text and "killed by SIGKILL" in text
    assert job.metrics()["attempts"] == 4
    assert {"attempt-1.log", "attempt-4.log"} <= {path.name for path in job.folder.logs.iterdir()}


def test_too_many_failures_without_a_newer_checkpoint_end_the_job(job: Job) -> None:
    code, text = job.run("crash@1 crash@1 crash@3 crash@3")  # the third saves a checkpoint: counting starts anew
    assert code == 4, text
    assert job.resumed() == [None, None, None, 2, 2]
    assert "gave up after 3 failures in a row" in text and "the scripted crash" in text
    assert "newest good checkpoint is of step 2" in text and str(job.folder.logs) in text
    assert "Traceback" not in text
    assert job.events("gave_up")[0]["failures"] == 3
    assert job.run("well")[0] == 0  # and the same command tries again
    assert is_finished(job) and job.resumed()[-1] == 2 and job.metrics()["attempts"] == 6


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("nan", 4, "newest good checkpoint is of step 2. Try a lower learning rate"),
        ("reward", 2, "the scripted reward failure of step 3"),
        ("data", 2, "the scripted data failure of step 3"),
        ("disk", 4, "the scripted disk failure of step 3"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(job: Job, kind: str, code: int, words: str) -> None:
    found, text = job.run(f"{kind}@3")
    assert found == code, text
    assert words in text and "Traceback" not in text
    [end] = job.events("attempt_ended")
    assert end["code"] == 1 and end["failure"]["kind"] == kind and end["failure"]["step"] == 3


@pytest.mark.parametrize("behaviour", ["hang", "deaf"])
def test_a_hung_trainer_is_ended_with_its_children_and_tried_again(job: Job, behaviour: str) -> None:
    code, text = job.run(f"{behaviour}@4 well", timeout=SILENCE)
    assert code == 0, text
    assert "no step, checkpoint or phase for 3 s while training" in text
    assert is_finished(job) and job.resumed() == [None, 2]
    assert gone(job.pid("child"))
    assert job.events("attempt_ended")[0]["code"] == (-signal.SIGTERM if behaviour == "hang" else None)


def test_a_trainer_that_ends_well_without_its_last_checkpoint_has_failed(job: Job) -> None:
    code, text = job.run("unfinished@3 well")
    assert code == 0, text
    assert "exited with code 0 at step 6, but the newest good checkpoint is of step 2" in text
    assert is_finished(job)


def test_half_a_line_in_the_journal_is_cut_off(job: Job) -> None:
    code, text = job.run("torn@3 well")
    assert code == 0, text
    assert is_finished(job)


def test_a_corrupt_newest_checkpoint_gives_way_to_the_one_before(job: Job) -> None:
    job.run("nan@5")
    data = job.folder.checkpoints / "global_step_4" / "data.pt"
    data.write_bytes(bytes(data.stat().st_size))
    code, text = job.run("well")
    assert code == 0, text
    assert job.resumed() == [None, 2] and is_finished(job)
    assert "warning: global_step_4 is damaged" in text and "set aside as global_step_4.bad-1" in text
    assert "global_step_4.bad-1" in job.events("set_aside")[0]["reason"]


def test_checkpoints_that_cannot_be_loaded_give_way_but_the_last_one_stays(job: Job) -> None:
    job.run("nan@5")
    code, text = job.run("unloadable@1")
    assert code == 4, text
    assert job.resumed() == [None, 4, 2, 2, 2]
    assert "global_step_4 do not fit the model; it is set aside as global_step_4.bad-1" in text
    assert checkpoints.newest_good(job.folder.checkpoints) == 2
    assert job.run("well")[0] == 0 and is_finished(job)


def test_a_lost_node_is_waited_for_and_the_training_goes_on_when_it_is_back(job: Job) -> None:
    job.script("lost@3 well")
    process = job.start(SCRIPTED_TELL="1")
    job.await_wait()
    time.sleep(2)
    assert len(job.events("attempt_started")) == 1
    job.lack.unlink()
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 0, text
    assert f"{LACK}; waiting for a node to return, at most 60 s" in text  # at once, and then now and then
    assert 2 <= text.count(f"{LACK}; waiting for a node to return, at most") <= 5
    assert "has what this training needs again" in text and job.events("resources_back")[0]["seconds"] >= 2
    assert is_finished(job) and job.resumed() == [None, 2]


def test_a_node_that_does_not_return_ends_the_job_and_the_same_command_goes_on(job: Job) -> None:
    code, text = job.run("lost@3 well", SCRIPTED_RETURN="2")
    assert code == 4 and "Traceback" not in text, text
    last = text.splitlines()[-1]
    assert last.startswith(
        f"error: {LACK}, and the rest has not returned within 2 s; the newest good checkpoint is of step"
    )
    assert "make cluster-status" in last and "--heal" in last and "same command" in last
    assert job.events("gave_up")[0]["missing"] == LACK and job.resumed() == [None]
    code, text = job.run("lost@3 well", SCRIPTED_RETURN="2")  # given too early: no attempt, the same answer
    assert code == 4 and job.resumed() == [None], text
    job.lack.unlink()
    assert job.run("lost@3 well")[0] == 0
    assert is_finished(job) and job.resumed() == [None, 2]


@pytest.mark.parametrize("behaviour", ["starve", "refuse"])
def test_attempts_that_lack_a_node_are_not_failures_of_the_trainer(job: Job, behaviour: str) -> None:
    job.script(" ".join(["crash@3", *[behaviour] * 3, "crash@3 well"]))  # 3 failures in a row would be too many
    process = job.start()
    for number in range(1, 4):
        job.await_wait(number)
        job.lack.unlink()
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 0, text
    assert is_finished(job) and job.resumed() == [None, *[2] * 5]
    assert "failure 2 of 3" in text and "failure 3" not in text


def test_all_waits_for_nodes_have_one_bound_until_there_is_a_newer_checkpoint(job: Job) -> None:
    job.script("starve")
    process = job.start(SCRIPTED_RETURN="8")
    job.await_wait()
    time.sleep(3)
    job.lack.unlink()
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 4 and "within 8 s; there is no checkpoint yet" in text, text
    assert len(job.events("attempt_started")) == 2
    begin, end = (datetime.fromisoformat(job.events(name)[-1]["time"]) for name in ("waiting", "gave_up"))
    assert (end - begin).total_seconds() < 6


def test_ctrl_c_ends_the_wait_for_a_node(job: Job) -> None:
    job.script("lost@3 well")
    process = job.start()
    job.await_wait()
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 130 and job.events("stopped")[0]["step"] == 2, text


def test_ctrl_c_saves_a_checkpoint_and_the_same_job_goes_on(job: Job) -> None:
    job.script("slow")
    process = job.start()
    wait_for(lambda: job.folder.journal.exists() and loss_curve(job.folder, "train/loss"), 30, "a first step")
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 130, text
    stopped = job.events("stopped")[0]["step"]
    assert stopped and stopped == max(loss_curve(job.folder, "train/loss"))
    assert job.events("attempt_ended")[0]["code"] == 130
    code, text = job.run("well")
    assert code == 0 and is_finished(job) and job.resumed() == [None, stopped], text


def test_ray_stops_a_job_with_sigterm_to_its_whole_tree_and_still_gets_a_checkpoint(job: Job) -> None:
    job.script("slow")
    process = job.start()
    wait_for(lambda: job.folder.journal.exists() and loss_curve(job.folder, "train/loss"), 30, "a first step")
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in tree:
        member.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 130, text
    assert job.events("stopped")[0]["step"] and job.events("attempt_ended")[0]["code"] == 130


def test_a_stop_in_the_middle_of_a_pause_between_attempts(job: Job) -> None:
    job.script("crash@3")
    process = job.start(SCRIPTED_PAUSE="60")
    wait_for(lambda: job.events("attempt_ended"), 30, "the first failure")
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 130 and job.events("stopped")[0]["step"] == 2, text


def test_a_trainer_that_does_not_stop_in_time_is_ended(job: Job) -> None:
    job.script("deaf@3")
    process = job.start(RAY_JOB_STOP_WAIT_TIME_S="2")
    child = job.pid("child")
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 130 and "did not stop in time and was killed" in text
    assert gone(child) and gone(job.pid())
    assert job.events("stopped")[0]["step"] == 2


def test_a_second_ctrl_c_ends_at_once(job: Job) -> None:
    job.script("deaf@3")
    process = job.start()
    child = job.pid("child")
    process.send_signal(signal.SIGINT)
    stop = job.folder.path / "stop"
    wait_for(stop.exists, 30, "the stop flag")
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 130, text
    assert time.monotonic() - start < 10
    assert gone(child) and gone(job.pid())


def test_the_trainer_of_a_killed_supervisor_ends_and_the_next_job_goes_on(job: Job) -> None:
    job.script("deaf@3 well")
    process = job.start()
    child, trainer = job.pid("child"), job.pid()
    process.kill()
    process.wait()
    text = job.start().communicate(timeout=60)[0]  # waits for the trainer that is being ended
    assert gone(child) and gone(trainer)
    assert is_finished(job) and job.resumed() == [None, 2], text
    assert job.metrics()["attempts"] == 2


def test_a_killed_guard_takes_the_trainer_along_and_it_is_tried_again(job: Job) -> None:
    job.script("deaf@3 well")
    process = job.start()
    child, trainer = job.pid("child"), job.pid()
    psutil.Process(trainer).parent().kill()
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "its guard was killed" in text
    assert gone(child) and gone(trainer) and is_finished(job)


def test_a_second_job_on_the_same_run_is_refused(job: Job) -> None:
    job.script("hang@3")
    first = job.start()
    job.pid("child")
    second = job.start()
    text = second.communicate(timeout=30)[0]
    assert second.returncode == 2 and f"pid {first.pid}" in text and "Traceback" not in text
    assert first.poll() is None and len(job.events("attempt_started")) == 1


def test_a_stop_asked_through_the_run_folder(job: Job) -> None:
    job.script("slow")
    process = job.start()
    wait_for(lambda: job.folder.journal.exists() and loss_curve(job.folder, "train/loss"), 30, "a first step")
    job.folder.ask_to_stop()
    process.communicate(timeout=30)
    assert process.returncode == 130 and job.events("stopped")[0]["step"]
