"""Run the jobs of a pipeline one after the other, each as a Ray Job with its own folder; finished ones are skipped."""

import argparse
import asyncio
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from ray.job_submission import JobDetails, JobSubmissionClient
from rich import box
from rich.console import Console
from rich.table import Table

from cluster.streams import print_json, visible
from jobs.exam.show import commonest
from orchestrator.console import say
from orchestrator.errors import COMPLETE, INCOMPLETE, KosenError, Parser, SpecError, run_command
from orchestrator.events import Events
from orchestrator.pipelines.plan import (
    PipelineSpec,
    Progress,
    State,
    Step,
    missing_need,
    plan,
    read_progress,
    write_progress,
)
from orchestrator.ray_cluster.connect import held
from orchestrator.ray_cluster.find import current, mode_of, run_root
from orchestrator.ray_cluster.jobs_api import check_job, job_client, job_details, submit_job, wait_for_end
from orchestrator.records.log import Owner, RunLock
from orchestrator.spec import load_spec

FAILED = KosenError.exit_code
LOOK_SECONDS = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m jobs.pipeline", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", required=True, help="such as conf/pipelines/gsm8k.yaml")
    parser.add_argument("--dry-run", action="store_true", help="show the steps and where each stands, and do nothing")
    parser.add_argument("--json", action="store_true", help="print the table as JSON on standard output")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args(argv)
    spec = load_spec(PipelineSpec, args.config, args.overrides)
    for step in spec.steps.values():
        check_job(step.job)
    if args.dry_run:
        steps = plan(spec, run_root() / spec.run)
        _print(steps, {step.name: read_progress(step) for step in steps}, as_json=args.json)
        return COMPLETE
    with held():
        return _run(spec, args)


def _run(spec: PipelineSpec, args: argparse.Namespace) -> int:
    client = job_client(start=False)  # the cluster is held: one that was started for this goes down with it
    folder = run_root() / spec.run
    pipeline = Pipeline(plan(spec, folder), client, folder)
    lock = RunLock(folder, Owner(socket.gethostname(), os.getpid()), mode=mode_of(current()))
    try:
        pipeline.run()
    finally:
        lock.release()
        _print(pipeline.steps, pipeline.progress, as_json=args.json)
    return pipeline.exit_code()


@dataclass
class Pipeline:
    """The steps of one pipeline on one cluster."""

    steps: list[Step]
    client: JobSubmissionClient
    folder: Path
    progress: dict[str, Progress] = field(default_factory=dict)

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

    def _run_step(self, step: Step) -> None:
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

    def _note(self, step: Step, progress: Progress) -> None:
        self.progress[step.name] = progress
        write_progress(step, progress)

    def _still_running(self, step: Step) -> str | None:
        progress = self.progress[step.name]
        if progress.state != "running" or progress.submission_id is None:
            return None
        try:
            ended = job_details(self.client, progress.submission_id).status.is_terminal()
        except SpecError:  # of a cluster that is gone
            return None
        return None if ended else progress.submission_id

    def _follow(self, step: Step, job_id: str) -> JobDetails:
        """Copy the job's output beside its results, because Ray's own goes with the cluster, until the job ends."""
        while not job_details(self.client, job_id).status.is_terminal():
            try:
                asyncio.run(self._copy_log(step.folder / "job.log", job_id))
            except (RuntimeError, OSError) as error:
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


def _problem(step: Step, details: JobDetails) -> str:
    """The job's own sentence, which it printed last, else what Ray says of its end."""
    try:
        lines = (step.folder / "job.log").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line for line in lines if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else f"{details.status}: {details.message}"


def _print(steps: Sequence[Step], progress: Mapping[str, Progress], *, as_json: bool) -> None:
    rows = [(step, progress[step.name], figures_of(step.folder)) for step in steps]
    if as_json:
        print_json([_row(*row) for row in rows])
        return
    table = Table("step", "state", "time", "score", "result", box=box.SIMPLE_HEAD)
    for step, where, figures in rows:
        time_taken = "" if where.seconds is None else f"{where.seconds:.0f} s"
        result = visible(where.problem or result_of(figures))
        table.add_row(step.name, _state(where), time_taken, score_of(figures), result)
    Console(highlight=False, markup=False, emoji=False).print(table)


def _state(progress: Progress) -> str:
    return "finished, with gaps" if progress.exit_code == INCOMPLETE else progress.state


def _row(step: Step, progress: Progress, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "step": step.name,
        "job": step.job,
        "model": step.model,
        "state": progress.state,
        "exit_code": progress.exit_code,
        "seconds": progress.seconds,
        "problem": progress.problem,
        "folder": str(step.folder),
        "figures": figures,
    }


def figures_of(folder: Path) -> dict[str, Any]:
    """What the step measured; empty where it wrote no figures."""
    try:
        figures: dict[str, Any] = orjson.loads((folder / "metrics.json").read_bytes())
    except FileNotFoundError:
        return {}
    return figures


def score_of(figures: Mapping[str, Any]) -> str:
    """An exam's accuracy with its half width (95 %), as the exam's own report gives it."""
    if figures.get("accuracy") is None:
        return ""
    half_width = figures["accuracy_half_width"]
    return f"{figures['accuracy']:.2f} %" + ("" if half_width is None else f" ± {half_width:.2f}")


def result_of(figures: Mapping[str, Any]) -> str:
    """What the score rests on, or what a training did."""
    if "n_judged" in figures:
        why = commonest(figures.get("commonest_failure"))
        return f"{figures['n_judged']} of {figures['n_total']} judged" + (f", {why}" if why else "")
    if "step" in figures:
        named = (("loss", "loss"), ("validation loss", "val_loss"), ("reward", "score"), ("validation", "val_score"))
        measured = [f"{name} {figures[key]:.3f}" for name, key in named if figures.get(key) is not None]
        return ", ".join([f"{figures['step']} steps", *measured])
    return ""


if __name__ == "__main__":
    run_command(main)
