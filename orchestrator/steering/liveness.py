"""Watches the signs of life of a run's parts: reports what hangs, and kills what can be restarted.

- A batching actor that has rows in work and is silent is killed; Ray Data starts another (orchestrator.records.pulse).
- An endpoint that answers nothing is reported. Others run it, so it is left to the deadline of each request; our own
  engines are watched by their tokens (orchestrator.steering.controller). One judge's answers are short: when each
  request that is under way has missed its deadline and nothing came in between, the stage is given up.
- A disk that does not take what was written is reported.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from ray.actor import ActorHandle
from ray.exceptions import RayError

from orchestrator.concurrency.patience import QUIET
from orchestrator.console import say
from orchestrator.records.pulse import Beat, Traffic, end_process
from orchestrator.records.types import Stage

# Seconds without a response, while requests are under way, until that is reported. Thinking models take minutes for
# each answer; verdicts are short.
SPEECHLESS: dict[Stage, float] = {"predict": 300.0, "judge": 120.0}
ENDS = 3  # actors of a stage that are killed without a record in between: then a row makes them hang, and would again

Note = Callable[..., None]


class Seen(Protocol):
    """What the writer knows (writer.Progress)."""

    @property
    def predicted(self) -> int: ...
    @property
    def judged(self) -> int: ...
    @property
    def silent(self) -> list[Beat]: ...
    @property
    def traffic(self) -> dict[Stage, Traffic]: ...
    @property
    def syncing(self) -> float: ...


class Silences:
    """How long each stage's endpoint has answered nothing although it was asked."""

    def __init__(self) -> None:
        self._heard: dict[Stage, int] = {}
        self._well: dict[Stage, float] = {}

    def observe(self, now: float, traffic: Mapping[Stage, Traffic]) -> dict[Stage, float]:
        """Seconds by stage. An actor that was restarted counts its responses from 0, which is a change too."""
        for stage, seen in traffic.items():
            if not seen.in_flight or self._heard.get(stage) != seen.heard:
                self._heard[stage], self._well[stage] = seen.heard, now
        return {stage: now - self._well[stage] for stage in traffic}


class Liveness:
    """Looks at each progress of one run. `endless` seconds without a response end a stage that is named there.

    `elsewhere`: the stages whose endpoints others run. `note` is `Events.add`.
    """

    def __init__(
        self, writer: ActorHandle, note: Note, *, elsewhere: Collection[Stage], endless: Mapping[Stage, float]
    ) -> None:
        self._writer, self._note, self._elsewhere, self._endless = writer, note, elsewhere, endless
        self._silences = Silences()
        self._said: set[str] = set()
        self._ended: Counter[Stage] = Counter()  # since the last record
        self._records = (0, 0)

    def poll(self, seen: Seen) -> list[Stage]:
        """Reports and kills what hangs; returns the stages to give up."""
        if self._records != (records := (seen.predicted, seen.judged)):
            self._records = records
            self._ended.clear()
        for beat in seen.silent:
            self._end_actor(beat)
        self._once("disk", seen.syncing >= QUIET, f"the disk has taken {seen.syncing:.0f} s so far to keep records")
        silences = self._silences.observe(time.monotonic(), seen.traffic)
        for stage, seconds in silences.items():
            quiet = stage in self._elsewhere and seconds >= SPEECHLESS[stage]
            asked = seen.traffic[stage].in_flight
            if self._once(stage, quiet, f"{stage}: {asked} requests are under way, no response for {seconds:.0f} s"):
                self._note("endpoint_silent", stage=stage, requests=asked, seconds=round(seconds))
        return [stage for stage, seconds in silences.items() if seconds >= self._endless.get(stage, float("inf"))]

    def _end_actor(self, beat: Beat) -> None:
        pid, asked = beat.life.pid, beat.in_flight
        seen = f"{beat.stage}: process {pid}, which has {asked} requests under way, hangs"
        if self._ended[beat.stage] >= ENDS:
            self._once(
                str(beat.life),
                True,
                f"{seen}, as {ENDS} did before it. It is left alone; py-spy shows where it hangs",
            )
            return
        try:
            ended = end_process(beat.life)
        except RayError:  # its node is gone, and Ray knows
            ended = False
        self._writer.forgive.remote(beat.life)
        if ended:
            self._ended[beat.stage] += 1
            say(f"{seen}. It is restarted")
            self._note("actor_stalled", stage=beat.stage, process=pid, requests=asked)

    def _once(self, name: str, now: bool, message: str) -> bool:
        """Print `message` when something begins, not while it lasts; whether it was printed."""
        began = now and name not in self._said
        (self._said.add if now else self._said.discard)(name)
        if began:
            say(message)
        return began
