"""Steers how many requests a run has in flight at our own engines, while its prediction stage runs.

A thread of the driver polls which engines live and what they report, the controller decides, and the run's writer
passes the window on to the actors. Without reports the window is what the deployment can take, as long as the stage is.
An engine that makes no progress is restarted.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayError

from orchestrator.concurrency.window import EngineWindow, Load
from orchestrator.console import say
from orchestrator.steering.engine_loads import Reading, asked_of, live_replicas, read_pages, readings
from orchestrator.steering.stalls import QUIET, STALLED, Stalls, end_engine

POLL = 2.0  # seconds between polls of which engines live
READ = 10.0  # seconds between reads of reports, which Ray renews every 10 s
SILENT = 60.0  # seconds without a first report until the window is fixed; it was seen 11 s after the first token
NOTE = 30.0  # seconds between events with the numbers, unless the window changes direction

STOP_SECONDS = 2.0
_active: set["Steering"] = set()

Tell = Callable[[int], object]
Note = Callable[..., None]


@contextmanager
def steered(app: str, window: EngineWindow, *, tell: Tell, note: Note) -> Iterator[None]:
    """Steer inside the block. `tell` gets each new window, `note` is `Events.add`; its StorageFailed is raised here."""
    steering = Steering(app, window, tell, note)
    tell(window.size)
    steering.start()
    _active.add(steering)
    try:
        yield
    finally:
        _active.discard(steering)
        steering.over.set()
        steering.join()
    if steering.error:
        raise steering.error


def stop_all() -> None:
    """Before an interrupted driver leaves Ray, which kills a process whose threads keep asking it."""
    for steering in list(_active):
        steering.over.set()
    for steering in list(_active):
        steering.join(STOP_SECONDS)


class Steering(threading.Thread):
    """The loop around the controller: it knows the application's replicas and what they said last.

    A daemon, so that an interrupted driver does not wait for it.
    """

    def __init__(self, app: str, window: EngineWindow, tell: Tell, note: Note) -> None:
        super().__init__(name="steering", daemon=True)
        self.over = threading.Event()
        self.error: BaseException | None = None
        self._app, self._window, self._tell, self._note = app, window, tell, note
        self._last: dict[str, Reading] = {}  # of the replicas that have reported
        self._told = window.size
        self._read_at = self._noted_at = self._begun_at = time.monotonic()
        self._rising = True
        self._stalls = Stalls()
        self._said: set[str] = set()  # replicas that were reported to generate no token
        self._fixed = False  # the window, because nothing reports

    def run(self) -> None:
        try:
            self._steer()
        except BaseException as error:  # noqa: BLE001 - handed to the thread of the stage, which raises it
            self.error = error

    def _steer(self) -> None:
        while not self.over.wait(POLL):
            now = time.monotonic()
            if not self._fixed and not self._last and now - self._begun_at > SILENT:
                self._fix()
            try:
                self._look(now)
            except RayError:
                continue  # the cluster is busy or ends; the stage itself says so when it does
            if not self._fixed:
                self._publish()

    def _look(self, now: float) -> None:
        alive = live_replicas(self._app)
        self._window.resize(len(alive & self._last.keys()))
        if now - self._read_at >= READ:
            self._read_at = now
            found = {name: found for name, found in readings(read_pages()).items() if name in alive}
            self._observe(now, found)
            self._end_stalled(now, asked_of(self._app), found)

    def _observe(self, now: float, found: dict[str, Reading]) -> None:
        loads = [Load.since(self._last.get(name), reading) for name, reading in found.items()]
        self._last = found or self._last
        before = self._window.size
        self._window.resize(len(found))
        self._window.observe(now, loads)
        change = self._window.size - before
        turned = change != 0 and (change > 0) != self._rising
        self._rising = change > 0 if change else self._rising
        if loads and (turned or now - self._noted_at >= NOTE):
            self._noted_at = now
            self._note("window", **_gauges(self._window, loads))

    def _end_stalled(self, now: float, asked: dict[str, int | None], found: dict[str, Reading]) -> None:
        for replica, seconds in self._stalls.observe(now, asked, found).items():
            if seconds >= STALLED:
                end_engine(self._app, replica)
                self._stalls.forgive(now, replica)
                self._tell_stall("engine_stalled", replica, asked[replica], STALLED, "It is restarted")
            elif seconds >= QUIET and replica not in self._said:
                self._said.add(replica)
                self._tell_stall(
                    "engine_silent", replica, asked[replica], seconds, f"After {STALLED:.0f} s it is killed"
                )
            elif not seconds:
                self._said.discard(replica)

    def _tell_stall(self, event: str, replica: str, requests: int | None, seconds: float, what: str) -> None:
        count = "requests" if requests is None else f"{requests} requests"
        say(f"{self._app}: an engine with {count} generated no token for {seconds:.0f} s. {what}")
        self._note(event, replica=replica, requests=requests, seconds=round(seconds))

    def _publish(self) -> None:
        if self._window.size != self._told:
            self._told = self._window.size
            self._tell(self._told)

    def _fix(self) -> None:
        """It is clear that these engines report nothing. Should they, later, it is still fixed."""
        self._fixed = True
        self._tell(self._window.most)
        self._note("window_fixed", window=self._window.most, reason=f"the engines reported nothing for {SILENT:.0f} s")


def _gauges(window: EngineWindow, loads: list[Load]) -> dict[str, Any]:
    return {
        "window": window.size,
        "engines": window.engines,
        "running": sum(load.running for load in loads),
        "waiting": sum(load.waiting for load in loads),
        "kv_usage": round(sum(load.kv_usage for load in loads) / len(loads), 3),
        "preemptions": sum(load.preemptions for load in loads),
    }
