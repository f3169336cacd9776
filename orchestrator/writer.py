"""The run's one writer: a Ray actor that holds the run folder's lock and its two record logs.

Batching actors ask it what is still to do, hand it each record as soon as that is final, and wait at it for another
window and (the judge stage) for predictions to arrive.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import ray

from orchestrator.errors import StorageFailed
from orchestrator.privacy import RUN_MODE
from orchestrator.pulse import Beat, Life, Pulses, Traffic
from orchestrator.records import (
    Judgement,
    Key,
    Owner,
    Prediction,
    RecordLog,
    RunLock,
    Stage,
    Wanted,
    digest,
    is_settled,
    prediction_digest,
)

SYNC_INTERVAL = 1.0  # seconds; what a power failure may cost, a killed process costs nothing
POLL_SECONDS = 20.0  # a waiting call returns empty-handed after this, so that no call hangs for ever


class Progress(NamedTuple):
    """Counts of this session."""

    predicted: int
    judged: int
    needless: int  # answers that had their verdict, or that no verdict is needed for
    by_status: dict[str, int]
    by_verdict: dict[str, int]
    silent: list[Beat]  # the last words of batching actors that have work and give no sign of life
    traffic: dict[Stage, Traffic]
    syncing: float  # seconds since the disk was asked to keep what it has


@ray.remote(num_cpus=0, max_restarts=0)
class RecordWriter:
    """Not restarted after its death: the job ends with a sentence, and the next one reads everything from the logs."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._secrets: dict[str, str] = {}
        self._planned: dict[Key, str] = {}  # to the fingerprint that the spec wants
        self._open: set[Key] = set()  # still to be predicted in this session
        self._arrived = asyncio.Condition()
        self._windows: dict[Stage, int] = {}
        self._resized = asyncio.Condition()
        self._unsynced = False
        self._sync_began: float | None = None
        self._sync_error: StorageFailed | None = None
        self._pulses = Pulses()
        self._predicted = self._judged = self._needless = 0
        self._by_status: dict[str, int] = {}
        self._by_verdict: dict[str, int] = {}

    async def open(self, owner: Owner, mode: int = RUN_MODE) -> list[str]:
        """Lock the run folder and read its logs; returns what had to be mended, in sentences. Raises RunLocked.

        A folder that is not there yet is made, with `mode`.

        Not in the constructor, whose errors reach a caller only as the text of a dead actor.
        """
        self._lock = RunLock(self._folder, owner, mode=mode)
        self._predictions = RecordLog[Prediction](self._folder / "predictions.jsonl", _prediction_state)
        self._judgements = RecordLog[Judgement](self._folder / "judgements.jsonl", _judgement_state)
        self._regular = [asyncio.create_task(self._sync_regularly()), asyncio.create_task(self._tick())]
        return self._predictions.repairs + self._judgements.repairs

    async def keep_secrets(self, secrets: dict[str, str]) -> None:
        """Hold the driver's keys in memory for the actors of this run: no file, spec or listing of Ray shows them."""
        self._secrets.update(secrets)

    async def secrets(self) -> dict[str, str]:
        return self._secrets

    async def set_window(self, stage: Stage, window: int) -> None:
        """A stage may have so many requests in flight at the run's own engines, over all its actors."""
        self._windows[stage] = window
        async with self._resized:
            self._resized.notify_all()

    async def window(self, stage: Stage, known: int | None) -> int | None:
        """A stage's window as soon as it is another than `known`, or after POLL_SECONDS as it is."""
        async with self._resized:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._resized.wait_for(lambda: self._windows.get(stage) != known), POLL_SECONDS)
        return self._windows.get(stage)

    async def plan(self, wanted: Sequence[Wanted]) -> list[bool]:
        """Which of `wanted` must be asked; they stay open until their record is appended."""
        todo = [not self._has(item) for item in wanted]
        self._open.update(Key(item.id, item.sample) for item, ask in zip(wanted, todo, strict=True) if ask)
        self._planned.update({Key(item.id, item.sample): item.fingerprint for item in wanted})
        return todo

    async def still_open(self, keys: Sequence[Key]) -> list[Key]:
        """Those of `keys` without a record yet: what an actor that was restarted has left to do."""
        return [Key(*key) for key in keys if Key(*key) in self._open]

    async def append_predictions(self, records: Sequence[Prediction]) -> None:
        """Record final predictions; one that was recorded already in this session is passed over."""
        new = [record for record in records if Key(record["id"], record["sample"]) in self._open]
        self._raise_if_lost()
        written = self._predictions.append(new)
        self._unsynced = True
        for record in written:
            self._open.discard(Key(record["id"], record["sample"]))
            self._by_status[record["status"]] = self._by_status.get(record["status"], 0) + 1
        self._predicted += len(new)
        async with self._arrived:
            self._arrived.notify_all()

    async def take_predicted(self, keys: Sequence[Key], judge: str) -> dict[Key, Prediction | None]:
        """Wait until some of `keys` are predicted and return those: the prediction, or None where nothing is to judge.

        `judge` is the digest of the judge's identity; an answer that this judge has judged already is not judged
        again. Empty after POLL_SECONDS without news.
        """
        async with self._arrived:
            ready = [key for key in map(_as_key, keys) if key not in self._open]
            if not ready:
                try:
                    await asyncio.wait_for(self._arrived.wait(), POLL_SECONDS)
                except TimeoutError:
                    return {}
                ready = [key for key in map(_as_key, keys) if key not in self._open]
        found = {key: self._predictions.read(key) if self._needs_verdict(key, judge) else None for key in ready}
        self._needless += sum(prediction is None for prediction in found.values())
        return found

    async def count_to_judge(self, judge: str) -> int:
        """How many planned answers this judge may have to judge, those to come included."""
        return sum(key in self._open or self._needs_verdict(key, judge) for key in self._planned)

    async def abandon(self) -> None:
        """No more predictions will come in this session: whoever waits for one gets what there is."""
        self._open.clear()
        async with self._arrived:
            self._arrived.notify_all()

    async def append_judgements(self, records: Sequence[Judgement]) -> None:
        self._raise_if_lost()
        written = self._judgements.append(records)
        self._unsynced = True
        self._judged += len(written)
        for record in written:
            self._by_verdict[record["verdict"]] = self._by_verdict.get(record["verdict"], 0) + 1

    async def progress(self, silent_after: int) -> Progress:
        """`silent_after`: seconds without a sign of life."""
        return Progress(
            predicted=self._predicted,
            judged=self._judged,
            needless=self._needless,
            by_status=self._by_status,
            by_verdict=self._by_verdict,
            silent=self._pulses.silent(silent_after),
            traffic=self._pulses.traffic(),
            syncing=time.monotonic() - self._sync_began if self._sync_began else 0.0,
        )

    async def pid(self) -> int:
        """For the driver, which runs on the same host and ends a writer that does not end itself."""
        return os.getpid()

    async def beat(self, beat: Beat) -> None:
        """A batching actor lives."""
        self._pulses.add(beat)

    async def forgive(self, life: Life) -> None:
        """A silent actor was ended."""
        self._pulses.forgive(life)

    async def close(self) -> None:
        """Bring everything to the disk and give the run folder back."""
        for task in self._regular:
            task.cancel()
        self._predictions.close()
        self._judgements.close()
        self._lock.release()
        self._raise_if_lost()

    def _has(self, wanted: Wanted) -> bool:
        entry = self._predictions.index.get(Key(wanted.id, wanted.sample))
        if entry is None:
            return False
        status, reason, fingerprint, spec, _ = entry.state
        return is_settled(wanted, status, reason, fingerprint, spec)

    def _needs_verdict(self, key: Key, judge: str) -> bool:
        entry = self._predictions.index.get(key)
        if entry is None or entry.state[0] == "failed" or entry.state[2] != self._planned.get(key):
            return False  # nothing to judge, or an answer to what another spec asked
        judged = self._judgements.index.get(key)
        return judged is None or judged.state != (entry.state[4], judge, "judged")

    async def _sync_regularly(self) -> None:
        while True:
            await asyncio.sleep(SYNC_INTERVAL)
            if self._unsynced:
                self._unsynced, self._sync_began = False, time.monotonic()
                try:
                    await asyncio.to_thread(self._sync)
                except StorageFailed as error:  # the kernel says it once
                    self._sync_error = error
                self._sync_began = None

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._pulses.tick()

    def _raise_if_lost(self) -> None:
        """Where the disk did not take what was written before, a quota on NFS for example, the job ends."""
        if self._sync_error:
            raise self._sync_error

    def _sync(self) -> None:
        self._predictions.sync()
        self._judgements.sync()


def _as_key(key: Sequence[object]) -> Key:
    return Key(*key)  # type: ignore[arg-type]


def _prediction_state(record: Prediction) -> tuple[str | None, ...]:
    return record["status"], record["reason"], record["fingerprint"], record["spec"], prediction_digest(record)


def _judgement_state(record: Judgement) -> tuple[str | None, ...]:
    judged = "unjudged" if record["verdict"] == "unjudged" else "judged"
    return record["prediction"], digest(record["judge"]), judged
