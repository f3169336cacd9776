"""Runs one node of a cluster, as a task of a batch step: python -m cluster.node.agent head|worker|check NAME JOB.

It checks the node, keeps Ray running on it, reports its state to the batch script in a small file, and cleans up. JOB
is the batch job that the cluster belongs to; a replacement node runs in a job of its own.
"""

import dataclasses
import errno
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal, NoReturn, cast

from cluster.errors import ClusterError, PreflightFailed
from cluster.files import publish, read_published
from cluster.folder.cluster_folder import ClusterFolder
from cluster.folder.request import Request
from cluster.machine.network import Link, comm_environment, find_link, host_port, no_proxy
from cluster.machine.ports import reserve_ports
from cluster.machine.ray_command import RayNode
from cluster.machine.resources import Resources, from_allocation
from cluster.machine.temp_dirs import sweep
from cluster.node.ray_keeper import STOP_SIGNALS, Keeper
from cluster.preflight.checks import check_node, report
from cluster.probes.limits import raise_soft_limits
from cluster.schedulers.base import outside_a_job, scheduler_of
from cluster.state import token_path

Role = Literal["head", "worker", "check"]
# The head counts a node as dead after four answers missed: about 20 s without a link, where Ray's own settings take 65.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "4",
}


class Stop(BaseException):
    """A signal: the batch script (USR2) or the scheduler (TERM) asks this node to stop."""


class ServedAlready(Exception):
    """Another process of the same job keeps this node."""


class NodeProcess:
    """What one node does from its first check to its last."""

    def __init__(self, role: Role, request: Request, folder: Path) -> None:
        self.role, self.request, self.folder = role, request, folder
        self.allocation = scheduler_of(request.site.scheduler).allocation(os.environ)
        self.own_job = str(self.allocation.number)  # short, for names of folders and sockets
        self.host, self.hosts = self.allocation.this_host, self.allocation.hosts
        self.report: dict[str, Any] = {"host": self.host, "role": role, "phase": "checking", "problem": None}
        self.log: IO[str] = (self.folder / f"{self.host}.log").open("a", encoding="utf-8")
        self.keeper: Keeper | None = None

    def run(self) -> int:
        """The exit code: 0 asked to stop or nothing to do, 4 a check failed or Ray would not run."""
        with ExitStack() as held:
            try:
                problem = self._serve(held)
                _ignore_signals()  # from here on no signal disturbs the cleaning up
            except Stop:
                self._finish("left")
                return 0
            if problem:
                self._finish("failed", problem)
            return 4 if problem else 0

    def _serve(self, held: ExitStack) -> str | None:
        """Serve the node for as long as that goes; what ended it, None where nothing is wrong."""
        try:
            held.enter_context(self._alone())
            self._run()
        except ServedAlready:
            return None
        except (ClusterError, OSError) as error:
            return str(error) or type(error).__name__
        return None

    def _run(self) -> None:
        raise_soft_limits()
        for name in sweep(self.request.site.temp_dir):
            self.say(f"removed {name}, left by a killed node process")
        head = self._first_contact() if self.role == "worker" else None
        peers = [host for host in self.hosts if host != self.host]
        link = find_link(head["ip"] if head else next(iter(peers), None), self.request.site.interface)
        resources = self._resources()
        ports, held = reserve_ports(self.allocation.number, self.request.site.port_range)
        with held:
            values = {"ip": link.ip, "interface": link.interface, "ports": ports}
            self.tell("checking", **values, cpus=resources.cpus, gpus=resources.gpus)
            self._check(link, ports, peers, self.request.site.gpus_per_node or resources.gpus)
            if self.role != "check":
                self._keep_ray(link, resources, ports, head)

    def _resources(self) -> Resources:
        given, exclusive = self.allocation, self.request.site.exclusive
        return from_allocation(os.environ, cpus=given.cpus, gpus=given.gpus, memory=given.memory, exclusive=exclusive)

    def say(self, text: str) -> None:
        print(f"{_now()} {self.host} {text}", file=self.log, flush=True)

    def tell(self, phase: str, **values: object) -> None:
        """Publish where this node stands."""
        self.report |= {"phase": phase, **values, "time": _now()}
        publish(self.folder / f"node-{self.host}.json", self.report)
        self.say(phase + (f": {self.report['problem']}" if self.report["problem"] else ""))

    def _alone(self) -> socket.socket:
        """One process of a job a node, by a name without a file, which the kernel takes back with its holder.

        Raises ServedAlready where another has it.
        """
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0kosen-{os.getuid()}-{self.own_job}")
        except OSError as error:
            name.close()
            if error.errno == errno.EADDRINUSE:
                raise ServedAlready from None
            raise
        return name

    def _first_contact(self) -> dict[str, Any]:
        """What the head published, as soon as it has."""
        deadline = time.monotonic() + self.request.site.ready_timeout
        while not (head := read_published(self.folder / "head.json")):
            if time.monotonic() > deadline:
                raise ClusterError(f"the head published no address in {self.folder} in time")
            time.sleep(0.1)
        return head

    def _check(self, link: Link, ports: dict[str, int], peers: list[str], gpus: int) -> None:
        findings = check_node(
            site=self.request.site,
            host=self.host,
            link=link,
            ports=ports,
            job_dir=self.folder,
            gpus=gpus,
            peers=peers,
            job_id=self.own_job,
        )
        self.tell("checked", preflight=dataclasses.asdict(report(self.host, findings)))
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors and self.role != "check":
            raise PreflightFailed(f"{errors[0].check}: {errors[0].seen}. {errors[0].advice}")

    def _keep_ray(self, link: Link, resources: Resources, ports: dict[str, int], head: dict[str, Any] | None) -> None:
        def plan(temp_dir: str, address: str | None) -> RayNode:
            return RayNode(
                ip=link.ip,
                ports=ports,
                temp_dir=temp_dir,
                token=token_path(self.request.name),
                cpus=resources.cpus,
                gpus=resources.gpus,
                memory=resources.memory,
                object_store=resources.object_store,
                head=address,
                job_stop_seconds=self.request.site.job_stop_seconds,
            )

        self.keeper = Keeper(
            plan,
            job_id=self.own_job,
            temp_root=self.request.site.temp_dir,
            environment=self._ray_environment(link, head),
            kept_logs=self.folder / f"ray-{self.host}",
            log=self.log,
            tell=lambda text: self.tell("restarting", problem=text),
        )
        self.tell("starting")
        if head:
            self.keeper.keep_worker(host_port(head["ip"], head["ports"]["gcs"]))
        else:
            self.keeper.keep_head(lambda: publish(self.folder / "head.json", self.report | {"time": _now()}))

    def _ray_environment(self, link: Link, head: dict[str, Any] | None) -> dict[str, str]:
        """The site's variables win over what was found; `ray_command` adds what Ray itself needs."""
        known = [*self.hosts, link.ip, *([head["ip"]] if head else [])]
        return {**HEALTH, **comm_environment(link), **outside_a_job(os.environ), **no_proxy(os.environ, known)}

    def _finish(self, phase: str, problem: str | None = None) -> None:
        """Clean up; by now signals are ignored."""
        if self.keeper:
            self.keeper.end()
        self.tell(phase, problem=problem)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _stop(signum: int, frame: FrameType | None) -> NoReturn:
    _ignore_signals()  # asked once is enough, and a second Stop would interrupt the cleaning
    raise Stop


def _ignore_signals() -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def main(argv: list[str]) -> int:
    role, name, job_id = argv
    for number in STOP_SIGNALS:
        signal.signal(number, _stop)
    try:
        cluster = ClusterFolder(name)
        return NodeProcess(cast(Role, role), cluster.request(), cluster.job(job_id)).run()
    except Stop:  # before there was anything to clean
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
