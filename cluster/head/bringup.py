"""Starts the head and worker steps and waits until each node has been verified."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from cluster.errors import ClusterError, PreflightFailed
from cluster.files import publish, read_published
from cluster.folder.reports import known_nodes, node_reports
from cluster.head.job import BatchJob
from cluster.machine.logs import tail
from cluster.machine.network import host_port
from cluster.machine.ray_command import client_environment
from cluster.preflight.checks import Finding, NodeReport, compare_nodes, render, worst, write_canary
from cluster.preflight.slow_links import judge_pairs
from cluster.probes.pairwise import read_results
from cluster.state import ClusterState, Phase, write_state

T = TypeVar("T")
SILENT_SECONDS = 120.0  # Python's imports take seconds, on a cold file system with many nodes a minute


class BringUp:
    """The first part of a batch job's life. Every wait has the profile's ready_timeout as its end."""

    def __init__(self, job: BatchJob) -> None:
        self.job, self.request, self.folder = job, job.request, job.folder
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._began = time.monotonic()
        self.deadline = self._began + self.request.site.ready_timeout

    def run(self) -> ClusterState:
        """The state of the ready cluster. Raises ClusterError naming the node and what is wrong with it."""
        write_canary(self.folder)
        if self.request.mode == "preflight":
            return self._only_check()
        hosts = self.job.hosts
        self._write_state("starting")
        self.job.head = self.job.start_step(hosts[:1], "cluster.node.agent", "head")
        if hosts[1:]:
            self.job.start_step(hosts[1:], "cluster.node.agent", "worker")
        pairs = self.job.start_step(hosts, "cluster.preflight.measure_links") if self._has_pairs() else None
        self.until(lambda: read_published(self.folder / "head.json"), "the head to accept connections")
        self.job.events.write("head_listening")
        self._write_state("starting")
        ready = self._probe()
        self.job.events.write("nodes_ready", **ready)
        if pairs:
            self.until(lambda: pairs.poll() is not None, "the links between the nodes to be measured")
        self._judge()
        return self._write_state("ready")

    def until(self, condition: Callable[[], T], what: str) -> T:
        """Wait for something true and return it. A node that gave up ends the wait with its reason."""
        while not (value := condition()):
            self._raise_failed()
            self._raise_silent()
            if time.monotonic() > self.deadline:
                raise ClusterError(f"waited {self.request.site.ready_timeout} s for {what}. {self._standing()}")
            self.job.pause(0.1)
        return value

    def _raise_failed(self) -> None:
        for report in node_reports(self.folder).values():
            if report["phase"] == "failed":
                raise ClusterError(f"node {report['host']}: {report['problem']}\n{self._end_of_log(report['host'])}")
        for step in self.job.steps:
            if step.poll() and "cluster.node.agent" in step.what:
                raise ClusterError(f"the step {step.what} ended. The end of {step.remarks}:\n{tail(step.remarks)}")

    def _raise_silent(self) -> None:
        """A node that says nothing at all, long after its step began, does not see this folder or cannot run Python."""
        if time.monotonic() < self._began + SILENT_SECONDS:
            return
        reports = node_reports(self.folder)
        silent = [host for host in self.job.hosts if host not in reports]
        if silent:
            raise ClusterError(
                f"{', '.join(silent)} reported nothing for {SILENT_SECONDS:.0f} s. Do all nodes share the file system "
                f"of {self.folder}, and of the Python environment?\n{self._end_of_log(silent[0])}"
            )

    def _end_of_log(self, host: str) -> str:
        log = self.folder / f"{host}.log"
        return f"The end of {log}:\n{tail(log)}"

    def _standing(self) -> str:
        reports = node_reports(self.folder)
        return "; ".join(f"{host}: {reports.get(host, {}).get('phase', 'silent')}" for host in self.job.hosts)

    def _has_pairs(self) -> bool:
        return len(self.job.hosts) > 1 or self.request.site.gpus_per_node > 1

    def _probe(self) -> dict[str, Any]:
        """Runs `cluster.head.readiness` beside the head. Imports take seconds, so it starts before the workers."""
        self.until(lambda: len(self.reports_with_address()) == len(self.job.hosts), "every node to report its address")
        expected = self.folder / "expected.json"
        reports = self.reports_with_address()
        publish(expected, {"nodes": [self._expected(reports[host]) for host in self.job.hosts]})
        head = reports[self.job.hosts[0]]
        address = host_port(head["ip"], head["ports"]["gcs"])
        seconds = max(1.0, self.deadline - time.monotonic())
        with (self.folder / "ready.log").open("ab") as log:
            probe = subprocess.Popen(
                [sys.executable, "-m", "cluster.head.readiness", address, str(expected), str(seconds), head["ip"]],
                env=client_environment(self.job.token),
                stdout=subprocess.PIPE,
                stderr=log,
            )
        try:
            self.until(lambda: probe.poll() is not None, "every node to join Ray")
        finally:
            if probe.poll() is None:
                probe.kill()
        answer, _ = probe.communicate()
        result = (
            json.loads(answer.splitlines()[-1]) if answer.strip() else {"problems": [tail(self.folder / "ready.log")]}
        )
        if result["problems"]:
            raise ClusterError(f"the cluster is not complete: {'; '.join(result['problems'])}")
        return dict(result)

    def reports_with_address(self) -> dict[str, dict[str, Any]]:
        return {host: report for host, report in node_reports(self.folder).items() if report.get("ip")}

    def _expected(self, report: dict[str, Any]) -> dict[str, Any]:
        gpus = self.request.site.gpus_per_node or report["gpus"]  # asked for, else whatever the scheduler gave
        agent = report["ports"]["agent_http"]
        return {"name": report["host"], "ip": report["ip"], "gpus": gpus, "agent_http": agent}

    def _only_check(self) -> ClusterState:
        """`preflight`: the checks without a cluster."""
        hosts = self.job.hosts
        state = self._write_state("starting")
        nodes = self.job.start_step(hosts, "cluster.node.agent", "check")
        pairs = self.job.start_step(hosts, "cluster.preflight.measure_links") if self._has_pairs() else None
        self.until(lambda: nodes.poll() is not None, "the nodes' checks")
        if pairs:
            self.until(lambda: pairs.poll() is not None, "the links between the nodes to be measured")
        self._judge()
        return state

    def _judge(self) -> None:
        """Gather every node's findings and the measured links, write them down, and stop at an error."""
        reports = node_reports(self.folder)
        checked = [_node_report(report["preflight"]) for report in reports.values() if "preflight" in report]
        findings = [finding for report in checked for finding in report.findings] + compare_nodes(checked)
        if self._has_pairs():
            leave_out = self.job.scheduler.hints.leave_out
            findings += judge_pairs(read_results(self.folder), self.job.hosts, leave_out)
        publish(self.folder / "preflight.json", {"findings": [dataclasses.asdict(finding) for finding in findings]})
        print(render(findings), flush=True)
        self.job.events.write("preflight_done", worst=worst(findings))
        errors = [finding for finding in findings if finding.severity == "error"]
        if errors:
            first = errors[0]
            what = f"preflight: {first.check} on {first.node}: {first.seen}. {first.advice}"
            raise PreflightFailed(f"{what}\n{self._end_of_log(first.node)}")

    def _write_state(self, phase: Phase) -> ClusterState:
        head = read_published(self.folder / "head.json") or {}
        ports = head.get("ports", {})
        state = ClusterState(
            name=self.request.name,
            phase=phase,
            scheduler=self.job.scheduler.name,
            job_id=self.job.job_id,
            nodes=known_nodes(self.folder),
            ray_address=host_port(head["ip"], ports["gcs"]) if head else "",
            dashboard_url=f"http://{host_port(head['ip'], ports['dashboard'])}" if head else "",
            ports=ports,
            run_root=self.request.run_root,
            run_mode=self.request.site.run_mode,
            started_at=self._started_at,
            host=self.job.hosts[0],
            site=self.request.site_name,
            expected_nodes=len(self.job.hosts),
        )
        write_state(state)
        return state


def _node_report(values: dict[str, Any]) -> NodeReport:
    return NodeReport(values["node"], values["versions"], [Finding(**finding) for finding in values["findings"]])
