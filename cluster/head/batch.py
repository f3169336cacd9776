"""Runs on the batch job's first node: python -m cluster.head.batch NAME [PREDECESSOR].

Starts, monitors and stops the cluster; a successor does so only where the ledger lists unfinished jobs. Two steps,
the head and the workers, run `cluster.node.agent`. This process reads what the nodes publish and writes the state file;
no other process decides. The cluster ends with its head, and outlives a worker.
"""

import dataclasses
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from cluster.dashboard import post
from cluster.errors import ClusterError
from cluster.folder.ledger import End
from cluster.folder.reports import node_reports
from cluster.head.bringup import BringUp
from cluster.head.job import BatchJob, Ended, batch_job
from cluster.head.monitor import Monitor
from cluster.head.restart_workers import Repair
from cluster.head.resubmit import resubmit
from cluster.head.state_keeper import StateKeeper
from cluster.machine.exit_codes import cannot_run, shell_code
from cluster.machine.network import host_port, no_proxy
from cluster.probes.recorder import Recorder
from cluster.schedulers.base import Observer, Step
from cluster.schedulers.script import write_script
from cluster.schedulers.step import STOP_SECONDS
from cluster.state import ClusterState, client_variables, forget, write_state, write_token

COMMAND_SECONDS = 3.0  # seconds for a command to stop at TERM, where the walltime does not allow more


class Batch:
    """One batch job from its first second to its last."""

    def __init__(self, job: BatchJob, predecessor: str | None = None) -> None:
        self.job, self.request, self.name, self.predecessor = job, job.request, job.name, predecessor
        self.ledger = job.cluster.ledger(job.job_id)
        self.command: subprocess.Popen[bytes] | None = None
        self.successor: str | None = None

    def run(self) -> int:
        """The exit code: the command's own, 0 after `down`, 130 after the walltime, 4 when the cluster failed."""
        self.job.hear_signals()
        try:
            if self.predecessor and not self._goes_on(self.predecessor):
                return 0
            self._live()
            raise AssertionError("a cluster runs until it is stopped")
        except Ended as ended:
            return self._end(ended)
        except (ClusterError, OSError) as error:
            return self._end(Ended("failed", ClusterError.exit_code, str(error)))
        except BaseException as error:  # a fault of ours must not leave a cluster behind
            self._end(Ended("failed", ClusterError.exit_code, f"a fault in Kosen: {error!r}"))
            raise

    def _goes_on(self, predecessor: str) -> bool:
        """A successor starts after every end but success; one without a reason to run touches nothing."""
        scheduler = self.job.scheduler
        seen = Observer(scheduler).ask(predecessor, self.job.pause)
        state = seen.state if seen else None
        if self.ledger.goes_on(predecessor, lost=seen is None or seen.lost):
            write_token(self.name, secrets.token_hex(32))  # the old one has been in use for a whole walltime
            return True
        print(
            f"nothing to continue after job {predecessor} ({state or f'unknown to {scheduler.title} by now'})",
            flush=True,
        )
        self.job.events.write("not_continued", predecessor=predecessor, state=state)
        return False

    def _live(self) -> None:
        earlier = self.ledger.start()
        self.job.events.write("batch_started", nodes=self.job.hosts, host=self.job.hosts[0], earlier=earlier)
        self._promise_successor(self.request.site.resubmit - earlier)
        state = BringUp(self.job).run()
        if self.request.mode == "preflight":
            raise Ended("finished", 0)
        if self.job.hosts[1:]:
            self.job.start_step(self.job.hosts[1:], "cluster.node.head_watchdog")
        taken_up = resubmit(state, self.ledger, self.request.cwd, self.job.pause) if earlier else {}
        self.job.events.write("ready", nodes=len(state.nodes), **taken_up)
        self._watch(state)

    def _promise_successor(self, left: int) -> None:
        """A successor queues from now on, and gains priority there; the ledger decides whether it resumes."""
        if left <= 0 or self.request.mode == "preflight":
            return
        script = write_script(self.request, predecessor=self.job.job_id)
        try:
            self.successor = self.job.scheduler.submit(script, after=self.job.job_id)
        except ClusterError as error:  # not every site lets a job submit jobs
            print(
                f"warning: no successor will continue after this job's walltime: {error}", file=sys.stderr, flush=True
            )
            self.job.events.write("no_successor", problem=str(error))
            return
        self.ledger.submitted(self.successor)
        self.job.events.write("successor_queued", successor=self.successor)

    def _watch(self, state: ClusterState) -> None:
        watch = StateKeeper(
            state,
            self.job.folder,
            self.job.hosts,
            self.job.events,
            Repair(self._restart_worker, self.job.scheduler.node_states),
        )
        monitor = Monitor(state.dashboard_url, self.job.token, self.ledger)
        with Recorder(self.job.folder, self._metric_targets) as recorder:
            monitor.each_round(recorder.sample, lambda: watch.poll(monitor))
            with monitor:
                self._start_command(state)
                while True:
                    self.job.pause()
                    if self.command and (code := self.command.poll()) is not None:
                        raise Ended("finished", shell_code(code))

    def _restart_worker(self, host: str) -> Step:
        self.job.start_step([host], "cluster.node.head_watchdog")  # the old one went with the node
        return self.job.start_step([host], "cluster.node.agent", "worker")

    def _metric_targets(self) -> Mapping[str, str]:
        reports = node_reports(self.job.folder).values()
        return {r["host"]: host_port(r["ip"], r["ports"]["metrics_export"]) for r in reports if r.get("ip")}

    def _start_command(self, state: ClusterState) -> None:
        if self.request.mode != "run":
            return
        try:
            self.command = subprocess.Popen(
                self.request.command,
                cwd=self.request.cwd,
                env=self._command_environment(state),
                start_new_session=True,
            )
        except OSError as error:
            problem = cannot_run(self.request.command, error)
            raise Ended("finished", problem.exit_code, str(problem)) from None
        self.job.events.write("command_started")

    def _command_environment(self, state: ClusterState) -> dict[str, str]:
        nodes = [name for node in state.nodes for name in (node.name, node.ip)]
        found = {"PYTHONUNBUFFERED": "1", **os.environ}  # its output is followed
        return {**found, **no_proxy(found, nodes), **client_variables(state)}

    def _end(self, ended: Ended) -> int:
        """Everything ends, whatever else fails meanwhile: a full disk must not keep Ray alive."""
        self._try(self.job.events.write, "ending", why=ended.why, code=ended.code, problem=ended.problem)
        if ended.problem:
            print(f"error: {ended.problem}", file=sys.stderr, flush=True)
        mine = self.job.own_state()
        if mine:
            self._try(write_state, dataclasses.replace(mine, phase="stopping", problem=ended.problem))
        walltime = ended.why == "walltime"
        deadline = time.monotonic() + (self.request.site.job_stop_seconds if walltime else COMMAND_SECONDS)
        self._signal_command(signal.SIGTERM)
        if mine and walltime:
            self._try(self._stop_jobs, mine, deadline)
        self._await_command(deadline)
        self._try(self.ledger.end, ended.why)
        self._end_steps()
        self._cancel_others(ended.why)
        if mine:
            self._try(self._leave_state, mine, ended)
        self._try(self.job.events.write, "ended", why=ended.why, code=ended.code)
        return ended.code

    @staticmethod
    def _try(action: Callable[..., object], *args: object, **values: object) -> None:
        """Bookkeeping at the end: a failure is printed and stops nothing."""
        try:
            action(*args, **values)
        except (ClusterError, OSError) as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)

    def _stop_jobs(self, state: ClusterState, deadline: float) -> None:
        """Let Ray Jobs stop resumably."""
        jobs = self.ledger.interrupt()
        for job in jobs:
            post(f"{state.dashboard_url}/api/jobs/{job.submission_id}/stop", self.job.token)
        monitor = Monitor(state.dashboard_url, self.job.token, self.ledger)
        running = {"PENDING", "RUNNING"}
        while any(job.status in running for job in self.ledger.unfinished()) and time.monotonic() < deadline:
            if self.job.head and self.job.head.poll() is not None:
                break  # the scheduler's signal went to all processes, and Ray is gone
            monitor.poll()
            time.sleep(0.5)
        self.job.events.write("jobs_stopped", jobs=[job.submission_id for job in jobs])

    def _signal_command(self, number: int) -> None:
        """To its whole process group, of which some may outlive the command."""
        if self.command:
            with suppress(ProcessLookupError):
                os.killpg(self.command.pid, number)

    def _await_command(self, deadline: float) -> None:
        if self.command:
            with suppress(subprocess.TimeoutExpired):
                self.command.wait(max(0.0, deadline - time.monotonic()))
            self._signal_command(signal.SIGKILL)

    def _end_steps(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        for step in reversed(self.job.steps):  # workers before the head, whose end they would take for a failure
            step.terminate()
        for step in reversed(self.job.steps):
            step.wait(deadline)

    def _cancel_others(self, why: End) -> None:
        others = self.job.cluster.helpers()
        if self.successor and why != "walltime":
            others.append(self.successor)
        for job_id in others:
            self._try(self.job.scheduler.cancel, job_id)

    def _leave_state(self, state: ClusterState, ended: Ended) -> None:
        """The failure of an `up` stays readable until the next one, or `down`; any other end leaves nothing."""
        if ended.why == "failed" and self.request.mode == "up":
            write_state(dataclasses.replace(state, phase="failed", problem=ended.problem, nodes=[]))
            self.job.token.unlink(missing_ok=True)
        elif ended.why == "walltime" and self.successor:
            self.job.token.unlink(missing_ok=True)  # the successor makes its own
            write_state(dataclasses.replace(state, phase="queued", job_id=self.successor, nodes=[]))
        else:
            forget(self.name)


def main(argv: list[str]) -> int:
    return Batch(batch_job(argv[0]), *argv[1:2]).run()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
