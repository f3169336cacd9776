"""Polls a running cluster every few seconds, in a thread of its own: a slow answer must not delay a signal."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cluster.dashboard import NODES, alive_ips, get_json
from cluster.errors import ClusterError
from cluster.folder.ledger import Ledger, parse_jobs

PERIOD = 3.0  # seconds; Ray's own view of its nodes is some seconds old
SILENCE = 30.0  # seconds without an answer after which the last one counts no more
JOIN = 2.0  # seconds to wait for the last round on exit; losing it is harmless


class Monitor:
    """Which nodes Ray has alive, and what its jobs do (into the ledger); inside its `with` block, round by round.

    A round that fails, for a full disk or an answer of another shape, is reported and polled again: a watcher that dies
    silently would leave a state that lies.
    """

    def __init__(self, dashboard_url: str, token: Path, ledger: Ledger) -> None:
        self._url, self._token, self._ledger = dashboard_url, token, ledger
        self._actions: list[Callable[[], object]] = [self.poll]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._answered = time.monotonic()
        self.alive: frozenset[str] | None = None  # the IPs of the last answer; None: there is none, or an old one

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=JOIN)

    def each_round(self, *actions: Callable[[], object]) -> None:
        """Have these called after each poll."""
        self._actions += actions

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    @property
    def silent(self) -> bool:
        """Whether the dashboard has not answered for so long that its last answer says nothing any more."""
        return time.monotonic() - self._answered > SILENCE

    def poll(self) -> None:
        """One round."""
        nodes = get_json(self._url + NODES, self._token)
        if nodes:
            self.alive, self._answered = frozenset(alive_ips(nodes)), time.monotonic()
        for job in parse_jobs(get_json(f"{self._url}/api/jobs/", self._token)):
            self._ledger.note(job)

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD):
            for action in self._actions:
                try:
                    action()
                except (ClusterError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                    print(f"warning: cannot poll the cluster: {error!r}; retrying", file=sys.stderr, flush=True)
