"""Runs on the batch job's first node: python -m cluster.head.batch NAME [PREDECESSOR].

Starts the cluster, monitors it and ends it; a successor does so only where the ledger lists unfinished jobs. Two steps,
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
from types import FrameType

from cluster.dashboard import post
from cluster.errors import ClusterError
from cluster.folder.events import EventLog
from cluster.folder.ledger import End, open_ledger
from cluster.folder.request import Request, load_request
from cluster.head.bringup import BringUp, node_reports
from cluster.head.monitor import Monitor
from cluster.head.restart_workers import Repair
from cluster.head.resubmit import resubmit
from cluster.head.state_keeper import Watch
from cluster.machine.exit_codes import cannot_run, shell_code
from cluster.machine.network import host_port, no_proxy
from cluster.probes.recorder import Recorder
from cluster.schedulers import slurm
from cluster.schedulers.script import write_script
from cluster.schedulers.slurm import hostnames
from cluster.schedulers.step import STOP_SECONDS, Step
from cluster.state import (
    ClusterState,
    client_variables,
    cluster_dir,
    forget,
    helpers,
    job_dir,
    read_state,
    token_path,
    write_state,
    write_token,
)

CLUSTER_FAILED = 4
INTERRUPTED = 130
COMMAND_SECONDS = 3.0  # for a command to end at TERM, where the walltime does not give it more
EARLY = 60  # seconds that Slurm may send a --signal before its time


class Ended(Exception):
    """The cluster's end has come."""

    def __init__(self, why: End, code: int, problem: str | None = None) -> None:
        super().__init__(problem or why)
        self.why, self.code, self.problem = why, code, problem


class Batch:
    """One batch job from its first second to its last."""

    def __init__(self, request: Request, job_id: str, hosts: list[str], predecessor: str | None = None) -> None:
        self.request, self.job_id, self.hosts, self.predecessor = request, job_id, hosts, predecessor
        self.name, self.folder = request.name, job_dir(request.name, job_id)
        self.token = token_path(self.name)
        self.events = EventLog(cluster_dir(self.name) / "events.jsonl", job_id)
        self.ledger = open_ledger(self.name, job_id)
        self.signals: list[int] = []
        self.steps: list[Step] = []
        self.head: Step | None = None
        self.command: subprocess.Popen[bytes] | None = None
        self.successor: str | None = None

    def run(self) -> int:
        """The exit code: the command's own, 0 after `down`, 130 after the walltime, 4 when the cluster failed."""
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._note_signal)
        try:
            if self.predecessor and not self._goes_on(self.predecessor):
                return 0
            self._live()
            raise AssertionError("a cluster lives until somebody ends it")
        except Ended as ended:
            return self._end(ended)
        except (ClusterError, OSError) as error:
            return self._end(Ended("failed", CLUSTER_FAILED, str(error)))
        except BaseException as error:  # a fault of ours must not leave a cluster behind
            self._end(Ended("failed", CLUSTER_FAILED, f"a fault in Kosen: {error!r}"))
            raise

    def pause(self, seconds: float = 0.2) -> None:
        """Wait a little, unless there is a reason to end: a signal, or the head's end. Raises Ended."""
        time.sleep(seconds)
        if self.signals:
            raise self._reason_of_signal(self.signals[0])
        if self.head and self.head.poll() is not None:
            raise Ended("failed", CLUSTER_FAILED, self.head_problem())

    def head_problem(self) -> str:
        report = node_reports(self.folder).get(self.hosts[0], {})
        return f"the head on {self.hosts[0]} ended: {report.get('problem') or 'its step is gone'}"

    def _goes_on(self, predecessor: str) -> bool:
        """Slurm starts a successor after every end but success; one without a reason to run touches nothing."""
        job = slurm.Observer().ask(predecessor, self.pause)
        state = job.state if job else None
        if self.ledger.goes_on(predecessor, state):
            write_token(self.name, secrets.token_hex(32))  # the old one has been in use for a whole walltime
            return True
        print(f"nothing to go on with after job {predecessor} ({state or 'unknown to Slurm by now'})", flush=True)
        self.events.write("not_continued", predecessor=predecessor, state=state)
        return False

    def _live(self) -> None:
        earlier = self.ledger.start()
        self.events.write("batch_started", nodes=self.hosts, host=self.hosts[0], earlier=earlier)
        self._promise_successor(self.request.site.resubmit - earlier)
        state = BringUp(self).run()
        if self.request.mode == "preflight":
            raise Ended("finished", 0)
        if self.hosts[1:]:
            self.start_step(self.hosts[1:], "cluster.node.head_watchdog")
        taken_up = resubmit(state, self.ledger, self.request.cwd, self.pause) if earlier else {}
        self.events.write("ready", nodes=len(state.nodes), **taken_up)
        self._watch(state)

    def _promise_successor(self, left: int) -> None:
        """A successor queues from now on, and gains priority there; the ledger tells it whether to go on."""
        if left <= 0 or self.request.mode == "preflight":
            return
        script = write_script(self.request, predecessor=self.job_id)
        try:
            self.successor = slurm.submit(script, f"--dependency=afternotok:{self.job_id}", "--kill-on-invalid-dep=yes")
        except ClusterError as error:  # not every site lets a job submit jobs
            print(f"warning: nobody will go on after this job's walltime: {error}", file=sys.stderr, flush=True)
            self.events.write("no_successor", problem=str(error))
            return
        self.ledger.submitted(self.successor)
        self.events.write("successor_queued", successor=self.successor)

    def _watch(self, state: ClusterState) -> None:
        watch = Watch(state, self.folder, self.hosts, self.events, Repair(self._restart_worker, slurm.node_states))
        monitor = Monitor(state.dashboard_url, self.token, self.ledger)
        with Recorder(self.folder, self._metric_targets) as recorder:
            monitor.each_round(recorder.sample, lambda: watch.look(monitor))
            with monitor:
                self._start_command(state)
                while True:
                    self.pause()
                    if self.command and (code := self.command.poll()) is not None:
                        raise Ended("finished", shell_code(code))

    def _restart_worker(self, host: str) -> Step:
        self.start_step([host], "cluster.node.head_watchdog")  # the old one went with the node
        return self.start_step([host], "cluster.node.agent", "worker")

    def start_step(self, hosts: list[str], module: str, *role: str) -> Step:
        log = self.folder / "%N.log"
        arguments = [*role, self.name, self.job_id]
        step = Step(hosts, module, arguments, log=log, gpus=self.request.site.gpus_per_node)
        self.steps.append(step)
        return step

    def _metric_targets(self) -> Mapping[str, str]:
        reports = node_reports(self.folder).values()
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
        self.events.write("command_started")

    def _command_environment(self, state: ClusterState) -> dict[str, str]:
        nodes = [name for node in state.nodes for name in (node["name"], node["ip"])]
        found = {"PYTHONUNBUFFERED": "1", **os.environ}  # its output is followed
        return {**found, **no_proxy(found, nodes), **client_variables(state)}

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(number)

    def _reason_of_signal(self, number: int) -> Ended:
        """USR2 is our own early notice of the walltime. TERM is that too on sites that send nothing else, and Slurm's
        last word at the limit; else it is `down`, which says so beforehand, or `scancel`."""
        if number == signal.SIGUSR2 or (number == signal.SIGTERM and self._walltime_is_near()):
            return Ended("walltime", INTERRUPTED, "the walltime is over")
        return Ended("down", INTERRUPTED if self.request.mode == "run" else 0)

    def _walltime_is_near(self) -> bool:
        state = self._own_state()
        if state and state.phase == "stopping":
            return False
        with suppress(ClusterError):
            job, left = slurm.job(self.job_id), slurm.seconds_left(self.job_id)
            if job and not job.running:  # Slurm has ended it already, for the limit or because somebody wished
                return job.reason == "TimeLimit"
            return left is not None and left <= self.request.site.grace + EARLY
        return False

    def _end(self, ended: Ended) -> int:
        """Everything ends, whatever else fails meanwhile: a full disk must not keep Ray alive."""
        self._try(self.events.write, "ending", why=ended.why, code=ended.code, problem=ended.problem)
        if ended.problem:
            print(f"error: {ended.problem}", file=sys.stderr, flush=True)
        mine = self._own_state()
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
        self._try(self.events.write, "ended", why=ended.why, code=ended.code)
        return ended.code

    @staticmethod
    def _try(action: Callable[..., object], *args: object, **values: object) -> None:
        """Bookkeeping on the way out: said where it fails, and no reason to stop."""
        try:
            action(*args, **values)
        except (ClusterError, OSError) as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)

    def _own_state(self) -> ClusterState | None:
        state = read_state(self.name)
        return state if state and state.job_id == self.job_id else None

    def _stop_jobs(self, state: ClusterState, deadline: float) -> None:
        """Let Ray Jobs stop resumably."""
        jobs = self.ledger.interrupt()
        for job in jobs:
            post(f"{state.dashboard_url}/api/jobs/{job.submission_id}/stop", self.token)
        monitor = Monitor(state.dashboard_url, self.token, self.ledger)
        running = {"PENDING", "RUNNING"}
        while any(job.status in running for job in self.ledger.unfinished()) and time.monotonic() < deadline:
            if self.head and self.head.poll() is not None:
                break  # Slurm's signal went to all processes, and Ray is gone
            monitor.look()
            time.sleep(0.5)
        self.events.write("jobs_stopped", jobs=[job.submission_id for job in jobs])

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
        for step in reversed(self.steps):  # workers before the head, whose end they would take for a failure
            step.terminate()
        for step in reversed(self.steps):
            step.wait(deadline)

    def _cancel_others(self, why: End) -> None:
        others = helpers(self.name)
        if self.successor and why != "walltime":
            others.append(self.successor)
        for job_id in others:
            self._try(slurm.cancel, job_id)

    def _leave_state(self, state: ClusterState, ended: Ended) -> None:
        """The failure of an `up` stays readable until the next one, or `down`; any other end leaves nothing."""
        if ended.why == "failed" and self.request.mode == "up":
            write_state(dataclasses.replace(state, phase="failed", problem=ended.problem, nodes=[]))
            self.token.unlink(missing_ok=True)
        elif ended.why == "walltime" and self.successor:
            self.token.unlink(missing_ok=True)  # the successor makes its own
            write_state(dataclasses.replace(state, phase="queued", job_id=self.successor, nodes=[]))
        else:
            forget(self.name)


def main(argv: list[str]) -> int:
    request = load_request(argv[0])
    job_id = os.environ["SLURM_JOB_ID"]
    job_dir(request.name, job_id).mkdir(mode=0o700, parents=True, exist_ok=True)
    hosts = hostnames(os.environ["SLURM_JOB_NODELIST"])
    return Batch(request, job_id, hosts, *argv[1:2]).run()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
