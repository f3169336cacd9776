"""Updates state.json from Ray's node list and restarts missing workers."""

import dataclasses
from pathlib import Path

from cluster.folder.events import EventLog
from cluster.folder.reports import known_nodes, node_reports
from cluster.head.monitor import Monitor
from cluster.head.restart_workers import Repair
from cluster.state import UP, ClusterState, Node, Phase, read_state, write_state


class StateKeeper:
    """One cluster, from ready on. `hosts` are the batch job's, the head first."""

    def __init__(self, state: ClusterState, folder: Path, hosts: list[str], events: EventLog, repair: Repair) -> None:
        self._state, self._folder, self._hosts, self._events, self._repair = state, folder, hosts, events, repair

    def poll(self, monitor: Monitor) -> None:
        """One round: note a change, restart what is missing and has not given up."""
        nodes = known_nodes(self._folder)
        if monitor.silent:
            self._note("degraded", "the dashboard does not answer", nodes)
            return
        if (alive := monitor.alive) is None:
            return
        missing = [node.name for node in nodes if node.ip not in alive]
        whole = sum(node.ip in alive for node in nodes) >= self._state.expected_nodes
        reports = node_reports(self._folder)
        gave_up = {name: reports[name]["problem"] for name in missing if reports[name]["phase"] == "failed"}
        for host in self._repair.tick(name for name in missing if name in self._hosts[1:] and name not in gave_up):
            self._events.write("worker_restarted", node=host)
        said = [f"{name} ({gave_up[name]})" if name in gave_up else name for name in missing]
        if not monitor.stopped:
            self._note("ready" if whole else "degraded", None if whole else f"without {', '.join(said)}", nodes)

    def _note(self, phase: Phase, problem: str | None, nodes: list[Node]) -> None:
        state = read_state(self._state.name)
        if state is None or state.job_id != self._state.job_id or state.phase not in UP:
            return  # it is being stopped, or another job has it
        if (phase, problem, nodes) != (state.phase, state.problem, state.nodes):
            if (phase, problem) != (state.phase, state.problem):
                self._events.write(phase, problem=problem)
            write_state(dataclasses.replace(state, phase=phase, problem=problem, nodes=nodes))
