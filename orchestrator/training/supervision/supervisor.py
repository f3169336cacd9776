"""Keeps a training running: attempts from the newest good checkpoint, a deadline for silence, bounded retries, a stop.

A trainer is a process of its own, so that nothing that it does, hanging included, can take its supervisor along. What
is not the trainer's fault is tried again: up to `max_failures` times in a row without a newer checkpoint in between.
What would fail again the same way (NaN values, a broken reward, bad data, a full disk) ends the job.

No attempt is started while the cluster lacks what it needs: Ray would have it wait for a lost node in silence. The
node is waited for here, with messages and within bounds, and that does not count as the trainer's failure.
"""

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from orchestrator.console import say
from orchestrator.errors import (
    COMPLETE,
    INTERRUPTED,
    ClusterNotReady,
    SpecError,
    StorageFailed,
    TrainingFailed,
    storage_error,
)
from orchestrator.events import Events
from orchestrator.records.lock import Owner, RunLock
from orchestrator.training.checkpoints import checkpoints
from orchestrator.training.folder import Failure, TrainingFolder, read_journal
from orchestrator.training.supervision import outcome
from orchestrator.training.supervision.outcome import TrainingResult
from orchestrator.training.supervision.process import TrainerProcess, wait_for_earlier
from orchestrator.training.supervision.watch import Watch

Missing = Callable[[], str | None]  # what the cluster lacks now for this training, as a clause; None: nothing

POLL = 0.5  # seconds between polls of the journal, and of the nodes
PAUSE, LONGEST_PAUSE = 5.0, 60.0  # seconds before the next attempt; the pause doubles with each failure
JOB_STOP_SECONDS = 60.0  # what Ray grants a job of ours to stop, where the cluster does not say otherwise
STOP_SHARE = 5 / 6  # of those, for the trainer's checkpoint; the rest is for the end of both
# Seconds that lost nodes may take to return, in all until there is a newer checkpoint. A node that reboots is back in
# less than 5 minutes; a replacement may take longer in a queue, but then others could use what stands idle here.
RETURN_SECONDS = 900.0
TELL_SECONDS = 60.0  # between two lines on what is waited for


def supervise(
    folder: TrainingFolder,
    module: str,
    *,
    timeout: float,
    max_failures: int,
    environment: Mapping[str, str],
    missing: Missing,
) -> TrainingResult:
    """Run the trainer `module` to its last step, in as many attempts as it takes. Main thread only.

    `timeout`: seconds without a new line in the journal after which a trainer counts as hung. `environment` is added to
    this process's own. `missing` is asked while no trainer's workers run: before each attempt, and while one starts.
    A caller that holds the run folder's lock already may; it is free afterwards.

    Raises SpecError, StorageFailed, TrainingFailed, RunLocked, ClusterNotReady where lost nodes did not return, and
    KeyboardInterrupt once the trainer has stopped.
    """
    lock = RunLock(folder.path, Owner(socket.gethostname(), os.getpid()))
    try:
        return _Supervisor(folder, module, timeout, max_failures, environment, missing).run()
    finally:
        lock.release()


class _Supervisor:
    def __init__(
        self,
        folder: TrainingFolder,
        module: str,
        timeout: float,
        max_failures: int,
        environment: Mapping[str, str],
        missing: Missing,
    ) -> None:
        self._folder = folder
        self._module = module
        self._timeout = timeout
        self._max_failures = max_failures
        self._environment = environment
        self._missing = missing
        self._events = Events(folder.path)
        self._failures = 0  # in a row, without a newer checkpoint
        self._newest = -1  # step of the newest checkpoint that there ever was; 0: none
        self._short_since: float | None = None  # when an attempt was seen to lack resources
        self._waited = 0.0  # seconds for resources, without a newer checkpoint

    def run(self) -> TrainingResult:
        wait_for_earlier(self._folder.path)
        if result := self._finished_before():
            return result
        try:
            while failure := self._attempt(step := self._choose()):
                self._judge(failure, step)
        except KeyboardInterrupt:
            step = checkpoints.newest_good(self._folder.checkpoints)
            self._events.add("stopped", step=step)
            say(f"stopped; {_newest_checkpoint(step)}")
            raise
        return self._finish()

    def _finished_before(self) -> TrainingResult | None:
        result = outcome.read_result(self._folder)
        if not result and (step := outcome.finished_step(self._folder)) is not None:
            result = outcome.write_result(self._folder, step)  # killed just before it could say so
        if result:
            say(f"this training is finished: all {result.step} steps are done, {result.checkpoint}")
        return result

    def _choose(self) -> int | None:
        """The step to resume from. Bad checkpoints are set aside for older ones."""
        step, remarks = checkpoints.choose(self._folder.checkpoints)
        for remark in remarks:
            self._tell_set_aside(remark)
        self._note_progress(step)
        return step

    def _note_progress(self, step: int | None) -> None:
        if (step or 0) > self._newest:
            self._newest = step or 0
            self._failures = 0
            self._waited = 0.0

    def _await_resources(self) -> None:
        """Return when the cluster has what the training needs. Raises ClusterNotReady when lost nodes do not return."""
        start, self._short_since = self._short_since or time.monotonic(), None
        said, told = None, 0.0
        while missing := self._missing():
            now = time.monotonic()
            left = RETURN_SECONDS - self._waited - (now - start)
            if left <= 0:
                self._lost(missing)
            if missing != said:
                self._events.add("waiting", missing=missing)
            if missing != said or now - told >= TELL_SECONDS:
                say(f"{missing}; waiting for a node to return, at most {left:.0f} s")
                said, told = missing, now
            time.sleep(POLL)
        seconds = time.monotonic() - start
        self._waited += seconds
        if said:
            self._events.add("resources_back", seconds=round(seconds, 1))
            say(f"the cluster has what this training needs again, after {seconds:.0f} s")

    def _lost(self, missing: str) -> NoReturn:
        self._events.add("gave_up", missing=missing)
        newest = checkpoints.newest_good(self._folder.checkpoints)
        raise ClusterNotReady(
            f"{missing}, and the rest has not returned within {RETURN_SECONDS:.0f} s; {_newest_checkpoint(newest)}. "
            "See `make cluster-status`, have a lost node replaced by `make cluster-up ARGS=--heal`, then run the same "
            "command to resume"
        )

    def _attempt(self, step: int | None) -> Failure | None:
        """One trainer from start to end; why it failed, or None if it did all its steps."""
        self._await_resources()
        number, log = self._open_log()
        self._folder.clear()
        config = outcome.config_digest(self._folder)
        self._events.add("attempt_started", attempt=number, resumed_from=step, config=config)
        say(f"attempt {number}: {'from the beginning' if step is None else f'from step {step}'}, log: {log}")
        watch = Watch(self._folder)
        trainer = TrainerProcess(self._module, self._folder.path, log, self._environment)
        failure = None
        try:
            with trainer, watch:
                hung = self._follow(trainer, watch)
            failure = self._failure_of(trainer.exit_code, hung, log, watch.step)
            if failure:
                self._starved(watch)  # verl's PPO waits for no resources: it fails
        finally:
            said = asdict(failure) if failure else None
            self._events.add("attempt_ended", attempt=number, code=trainer.exit_code, failure=said)
        return failure

    def _open_log(self) -> tuple[int, Path]:
        """The number of the next attempt, which counts on over resumed jobs, and its log."""
        logs = self._folder.logs
        try:
            logs.mkdir(parents=True, exist_ok=True)
            number = 1 + max((int(log.stem.partition("-")[2]) for log in logs.glob("attempt-*.log")), default=0)
            log = logs / f"attempt-{number}.log"
            log.touch()
        except OSError as error:
            raise storage_error(error, logs) from error
        return number, log

    def _follow(self, trainer: TrainerProcess, watch: Watch) -> str | None:
        """Until the trainer's end; a sentence if it had to be killed because it hung."""
        try:
            while not trainer.wait(POLL):
                watch.read()
                if watch.silence() > self._timeout:
                    trainer.end()
                    return f"no step, checkpoint or phase for {self._timeout:.0f} s while {watch.phase}"
                if missing := self._starved(watch):
                    trainer.end()
                    return missing
            watch.read()
        except KeyboardInterrupt:
            self._stop(trainer)
            watch.read()
            if trainer.exit_code != COMPLETE or self._missing_checkpoint():  # else it had just done its last step
                raise
        return None

    def _starved(self, watch: Watch) -> str | None:
        """What the cluster lacks for an attempt whose workers have not reported yet. Ray may notice that a node
        is gone only after the attempt was started."""
        missing = None if watch.planned else self._missing()
        if missing and self._short_since is None:
            self._short_since = time.monotonic()
        return missing

    def _stop(self, trainer: TrainerProcess) -> None:
        """Have a checkpoint saved if there is the time. Another Ctrl-C leaves the trainer's block, which kills it."""
        granted = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", JOB_STOP_SECONDS)) * STOP_SHARE
        say(f"stopping: the trainer has {granted:.0f} s to finish its step and to save a checkpoint")
        self._folder.ask_to_stop()
        if not trainer.wait(granted):
            say("the trainer did not stop in time and was killed")

    def _failure_of(self, code: int | None, hung: str | None, log: Path, step: int | None) -> Failure | None:
        if code == COMPLETE:
            return self._missing_checkpoint()
        if code == INTERRUPTED and self._folder.stop_asked():  # by someone else, through the run folder
            raise KeyboardInterrupt
        reported = self._folder.failure() or Failure("other", hung or _describe(code, log), step)
        return replace(reported, message=reported.message.rstrip(". "))

    def _missing_checkpoint(self) -> Failure | None:
        """Done is what is saved: a trainer that ends well has left a whole checkpoint of its last step."""
        planned = outcome.planned_steps(read_journal(self._folder))
        newest = checkpoints.newest_good(self._folder.checkpoints)
        if planned is None:
            return Failure("other", "the trainer exited with code 0 without reporting its number of steps")
        if newest is None or newest < planned:
            return Failure(
                "other", f"the trainer exited with code 0 at step {planned}, but {_newest_checkpoint(newest)}"
            )
        return None

    def _judge(self, failure: Failure, resumed_from: int | None) -> None:
        """Return if the next attempt is worth it, after a pause; else raise what the user is to know."""
        newest = checkpoints.newest_good(self._folder.checkpoints)
        self._note_progress(newest)
        if failure.kind == "checkpoint" and newest == resumed_from and self._give_way(newest, failure.message):
            return
        _raise_if_final(failure, newest)
        if self._short_since is not None:
            return  # not the trainer's failure; what bounds it is the wait that comes next
        self._failures += 1
        if self._failures >= self._max_failures:
            self._events.add("gave_up", failures=self._failures)
            raise TrainingFailed(
                f"gave up after {self._failures} failures in a row without a newer checkpoint. The last one: "
                f"{failure.message}. {_newest_checkpoint(newest).capitalize()}; what the trainers printed is in "
                f"{self._folder.logs}. The same command tries again"
            )
        pause = min(PAUSE * 2 ** (self._failures - 1), LONGEST_PAUSE)
        say(f"failure {self._failures} of {self._max_failures}: {failure.message}. Retrying in {pause:.0f} s")
        time.sleep(pause)

    def _give_way(self, step: int | None, why: str) -> bool:
        """Set a checkpoint aside that looks whole but cannot be loaded, if there is an older one to resume from.

        The last one stays: to start again, when perhaps only a setting is wrong, is for a person to decide.
        """
        root = self._folder.checkpoints
        if step is None or checkpoints.newest_good(root, before=step) is None:
            return False
        self._tell_set_aside(checkpoints.set_aside(checkpoints.path_of(root, step), why))
        return True

    def _tell_set_aside(self, remark: str) -> None:
        self._events.add("set_aside", reason=remark)
        say(f"warning: {remark}")

    def _finish(self) -> TrainingResult:
        step = checkpoints.newest_good(self._folder.checkpoints)
        assert step is not None  # _missing_checkpoint saw it
        result = outcome.write_result(self._folder, step)
        self._events.add("finished", step=step, attempts=result.attempts)
        say(f"finished: step {step}, attempts: {result.attempts}, {result.seconds:.0f} s. {result.checkpoint}")
        return result


def _raise_if_final(failure: Failure, newest: int | None) -> None:
    """What would fail again the same way, or needs a person."""
    match failure.kind:
        case "reward" | "data":
            raise SpecError(failure.message)
        case "disk":
            raise StorageFailed(failure.message)
        case "nan":
            raise TrainingFailed(
                f"{failure.message}. {_newest_checkpoint(newest).capitalize()}. Try a lower learning rate (lr); the "
                "same command resumes from that checkpoint"
            )


def _newest_checkpoint(step: int | None) -> str:
    return "there is no checkpoint yet" if step is None else f"the newest good checkpoint is of step {step}"


def _describe(code: int | None, log: Path) -> str:
    """How a trainer ended that did not say why itself."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"the trainer was killed by {name}" + (", as a machine out of memory does" if code == -9 else "")
    end = f"ended with exit code {code}" if code is not None else "could not be started, or its guard was killed"
    said = _last_line(log)
    return f"the trainer {end}: {said}" if said else f"the trainer {end}"


def _last_line(log: Path, most: int = 300) -> str:
    with log.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - 4096))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((line.strip()[:most] for line in reversed(lines) if line.strip()), "")
