"""Runs a pipeline: its jobs one after the other, each as a Ray Job with its own folder; finished ones are skipped."""

import asyncio
import os
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from ray.job_submission import JobDetails, JobSubmissionClient

from orchestrator.console import say
from orchestrator.errors import COMPLETE, INCOMPLETE, KosenError, SpecError
from orchestrator.events import Events
from orchestrator.pipelines.plan import (
    PipelineSpec,
    PipelineStep,
    State,
    StepProgress,
    missing_need,
    plan,
    read_progress,
    write_progress,
)
from orchestrator.pipelines.table import Describe, print_steps
from orchestrator.ray_cluster.connect import held
from orchestrator.ray_cluster.find import current, mode_of, run_root
from orchestrator.ray_cluster.jobs_api import LOST, job_client, job_details, submit_job, wait_for_end
from orchestrator.records.lock import Owner, RunLock

FAILED = KosenError.exit_code
LOOK_SECONDS = 0.5


def run(spec: PipelineSpec, describe: Describe, *, as_json: bool) -> int:
    """Run what is not finished yet and print where each step stands then; the exit code."""
    with held():
        client = job_client(start=False)  # the cluster is held: one that was started for this goes down with it
        folder = run_root() / spec.run
        pipeline = Pipeline(plan(spec, folder), client, folder)
        lock = RunLock(folder, Owner(socket.gethostname(), os.getpid()), mode=mode_of(current()))
        try:
            pipeline.run()
        finally:
            lock.release()
            print_steps(pipeline.steps, pipeline.progress, describe, as_json=as_json)
        return pipeline.exit_code()


@dataclass
class Pipeline:
    """The steps of one pipeline on one cluster."""

    steps: list[PipelineStep]
    client: JobSubmissionClient
    folder: Path
    progress: dict[str, StepProgress] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.progress = {step.name: read_progress(step) for step in self.steps}

    def run(self) -> None:
        """Each step in turn; a failed one stops what needs it and nothing else."""
        events = Events(self.folder)
        for number, step in enumerate(self.steps, start=1):
            title = f"[{number}/{len(self.steps)}] {step.name}"
            if self.progress[step.name].state == "finished":
                say(f"{title}: finished already")
            elif needed := missing_need(step, self.states):
                self.progress[step.name] = replace(self.progress[step.name], state="not run", problem=f"needs {needed}")
                say(f"{title}: not run, because it needs {needed}")
            else:
                say(f"{title}: {step.job} {' '.join(step.arguments)}")
                self._run_step(step)
                ended = self.progress[step.name]
                say(f"{title}: {ended.state} after {ended.seconds} s")
                events.add("step_ended", step=step.name, exit_code=ended.exit_code, seconds=ended.seconds)

    @property
    def states(self) -> dict[str, State]:
        return {name: progress.state for name, progress in self.progress.items()}

    def exit_code(self) -> int:
        """4 if a step failed, 3 if one left gaps, else 0."""
        if any(state in ("failed", "not run") for state in self.states.values()):
            return FAILED
        return INCOMPLETE if any(p.exit_code == INCOMPLETE for p in self.progress.values()) else COMPLETE

    def _run_step(self, step: PipelineStep) -> None:
        """Follow the step's job to its end; one that an interrupted pipeline left running is followed, not repeated."""
        started = time.monotonic()
        running = self._still_running(step)
        job_id = running or submit_job(self.client, step.job, list(step.arguments), parent=_own_id())
        self._note(step, replace(self.progress[step.name], state="running", submission_id=job_id, problem=None))
        try:
            details = self._follow(step, job_id)
        except KeyboardInterrupt:
            say(f"{step.name}: stopping {job_id}, which keeps what it has finished")
            self.client.stop_job(job_id)
            wait_for_end(self.client, job_id)
            self._note(step, replace(self.progress[step.name], state="waiting"))
            raise
        ended = self.progress[step.name].ended(_exit_code(details), time.monotonic() - started)
        self._note(step, replace(ended, problem=None if ended.state == "finished" else _problem(step, details)))

    def _note(self, step: PipelineStep, progress: StepProgress) -> None:
        self.progress[step.name] = progress
        write_progress(step, progress)

    def _still_running(self, step: PipelineStep) -> str | None:
        progress = self.progress[step.name]
        if progress.state != "running" or progress.submission_id is None:
            return None
        try:
            ended = job_details(self.client, progress.submission_id).status.is_terminal()
        except SpecError:  # of a cluster that is gone
            return None
        return None if ended else progress.submission_id

    def _follow(self, step: PipelineStep, job_id: str) -> JobDetails:
        """Copy the job's output beside its results, because Ray's own goes with the cluster, until the job ends."""
        while not job_details(self.client, job_id).status.is_terminal():
            try:
                asyncio.run(self._copy_log(step.folder / "job.log", job_id))
            except LOST as error:
                say(f"{step.name}: lost the log of {job_id} ({error}); following it again")
            time.sleep(LOOK_SECONDS)
        return wait_for_end(self.client, job_id)

    async def _copy_log(self, log: Path, job_id: str) -> None:
        with log.open("w", encoding="utf-8") as file:
            async for chunk in self.client.tail_job_logs(job_id):
                file.write(chunk)
                file.flush()


def _own_id() -> str:
    """Of the job that this is, if Ray runs it; its children are named after it, see `submit_job`."""
    return os.environ.get("RAY_JOB_SUBMISSION_ID", "pipeline")


def _exit_code(details: JobDetails) -> int | None:
    return None if details.driver_exit_code is None else int(details.driver_exit_code)


def _problem(step: PipelineStep, details: JobDetails) -> str:
    """The job's own sentence, which it printed last, else what Ray says of its end."""
    try:
        lines = (step.folder / "job.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line for line in lines if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else f"{details.status}: {details.message}"
