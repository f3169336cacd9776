"""Restarts workers whose node process is gone, by a step of their own on the node, within bounds.

A worker whose Ray ended or that lost its link comes back by itself: its node process starts Ray again. This is for the
case that the process itself is gone, as after a reboot of the node.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cluster.schedulers.base import NodeState, Step

PATIENCE = 15.0  # seconds without a node before it is checked; a restarted Ray is back in less
PAUSE = 30.0  # seconds between two tries on one node
TRIES = 5


@dataclass(slots=True)
class _Patient:
    missing_since: float
    tries: int = 0
    next_try: float = 0.0
    step: Step | None = field(default=None)


class Repair:
    """`start` starts a worker's step on a node; `states` has the scheduler's view of nodes of the job."""

    def __init__(self, start: Callable[[str], Step], states: Callable[[list[str]], Mapping[str, NodeState]]) -> None:
        self._start, self._states = start, states
        self._patients: dict[str, _Patient] = {}

    def tick(self, missing: Iterable[str]) -> list[str]:
        """Restarts Ray on missing nodes; returns those on which a step was started."""
        now = time.monotonic()
        gone = set(missing)
        for host in list(self._patients):
            if host not in gone:
                patient = self._patients[host]
                patient.missing_since, patient.next_try = now, now + PATIENCE
        for host in gone:
            self._patients.setdefault(host, _Patient(now, next_try=now + PATIENCE))
        due = [host for host in gone if self._due(self._patients[host], now)]
        states = self._states(due) if due else {}
        return [host for host in due if self._try(host, states.get(host), now)]

    @property
    def steps(self) -> list[Step]:
        return [patient.step for patient in self._patients.values() if patient.step]

    def _due(self, patient: _Patient, now: float) -> bool:
        busy = patient.step is not None and patient.step.poll() is None
        return now >= patient.next_try and patient.tries < TRIES and not busy

    def _try(self, host: str, state: NodeState | None, now: float) -> bool:
        patient = self._patients[host]
        patient.next_try = now + PAUSE
        if state is None or not state.usable:
            patient.next_try = now + 2  # ask again soon: it may be booting
            return False
        patient.tries += 1
        patient.step = self._start(host)
        return True
