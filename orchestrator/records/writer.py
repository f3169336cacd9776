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
from orchestrator.files import RUN_MODE
from orchestrator.records.lock import Owner, RunLock
from orchestrator.records.log import Entry, RecordLog
from orchestrator.records.pulse import Beat, Life, Pulses, Traffic
from orchestrator.records.types import (
    AnswerKey,
    Judgement,
    Key,
    Prediction,
    Stage,
    VerdictKey,
    Wanted,
    answer_key,
    answer_keys,
    is_settled,
    prediction_digest,
    verdict_key,
)

SYNC_INTERVAL = 1.0  # seconds; what a power failure may cost, a killed process costs nothing
POLL_SECONDS = 20.0  # a waiting call returns empty-handed after this, so that no call hangs for ever


class Judges(NamedTuple):
    """Whose verdicts count: digests of identities. Model judges keep what earlier versions recorded of them."""

    current: str
    earlier: str | None = None


class Progress(NamedTuple):
    """Counts of this session."""

    predicted: int
    judged: int
    needless: int  # answers that had their verdict, or that no verdict is needed for
    by_status: dict[str, int]
    by_verdict: dict[str, int]
    silent: list[Beat]  # the last beats of batching actors that have work and send none any more
    traffic: dict[Stage, Traffic]
    syncing: float  # seconds since the disk was asked to keep what it has


@ray.remote(num_cpus=0, max_restarts=0)
class RecordWriter:
    """Not restarted after its death: the job ends with a sentence, and the next one reads everything from the logs."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._secrets: dict[str, str] = {}
        self._planned: dict[Key, Wanted] = {}
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
        """Lock the run folder and read its logs; returns what had to be repaired, in sentences. Raises RunLocked.

        A folder that is not there yet is made, with `mode`.

        Not in the constructor, whose errors reach a caller only as the text of a dead actor.
        """
        self._lock = RunLock(self._folder, owner, mode=mode)
        self._predictions = RecordLog[Prediction, AnswerKey](
            self._folder / "predictions.jsonl", answer_key, _prediction_state
        )
        self._judgements = RecordLog[Judgement, VerdictKey](
            self._folder / "judgements.jsonl", verdict_key, _judgement_state
        )
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
        """Which of `wanted` must be asked; they stay open until their record is appended.

        A second plan for the same samples takes the place of the first.
        """
        wanted = [Wanted(*item) for item in wanted]
        self._open.difference_update(Key(item.id, item.sample) for item in wanted)
        todo = [not self._has(item) for item in wanted]
        self._open.update(Key(item.id, item.sample) for item, ask in zip(wanted, todo, strict=True) if ask)
        self._planned.update({Key(item.id, item.sample): item for item in wanted})
        return todo

    async def still_open(self, keys: Sequence[Key]) -> list[Key]:
        """Those of `keys` without a record yet: what an actor that was restarted has left to do."""
        return [Key(*key) for key in keys if Key(*key) in self._open]

    async def append_predictions(self, records: Sequence[Prediction]) -> None:
        """Record final predictions; one that was recorded already in this session is skipped."""
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

    async def take_predicted(self, keys: Sequence[Key], judges: Judges) -> dict[Key, Prediction | None]:
        """Wait until some of `keys` are predicted and return those: the prediction, or None where nothing is to judge.

        An answer that one of `judges` has judged already, by the same reference, is not judged again. Empty after
        POLL_SECONDS without news.
        """
        async with self._arrived:
            ready = [key for key in map(_as_key, keys) if key not in self._open]
            if not ready:
                try:
                    await asyncio.wait_for(self._arrived.wait(), POLL_SECONDS)
                except TimeoutError:
                    return {}
                ready = [key for key in map(_as_key, keys) if key not in self._open]
        found = {key: self._to_judge(key, Judges(*judges)) for key in ready}
        self._needless += sum(prediction is None for prediction in found.values())
        return found

    async def count_to_judge(self, judges: Judges) -> int:
        """How many planned answers the judge may have to judge, those to come included."""
        return sum(key in self._open or self._unjudged(key, Judges(*judges)) is not None for key in self._planned)

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
        """For the driver, which runs on the same host and kills a writer that does not exit."""
        return os.getpid()

    async def beat(self, beat: Beat) -> None:
        """A batching actor lives."""
        self._pulses.add(beat)

    async def forgive(self, life: Life) -> None:
        """A silent actor was killed."""
        self._pulses.forgive(life)

    async def close(self) -> None:
        """Writes everything to the disk and releases the run folder."""
        for task in self._regular:
            task.cancel()
        self._predictions.close()
        self._judgements.close()
        self._lock.release()
        self._raise_if_lost()

    def _has(self, wanted: Wanted) -> bool:
        place = self._find(wanted)
        if place is None:
            return False
        status, reason, spec, _ = self._predictions.index[place].state
        return is_settled(wanted, status, reason, spec)

    def _find(self, wanted: Wanted) -> AnswerKey | None:
        return next((key for key in answer_keys(wanted) if key in self._predictions.index), None)

    def _to_judge(self, key: Key, judges: Judges) -> Prediction | None:
        place = self._unjudged(key, judges)
        return None if place is None else self._predictions.read(place)

    def _unjudged(self, key: Key, judges: Judges) -> AnswerKey | None:
        """Where a planned answer lies that has no verdict of these judges; None: there is no answer, or it has one."""
        wanted = self._planned.get(key)
        place = self._find(wanted) if wanted else None
        if wanted is None or place is None:
            return None  # an answer to what another spec asked
        status, _, _, answer = self._predictions.index[place].state
        verdict = self._verdict(wanted, str(answer), judges)
        return None if status == "failed" or (verdict and verdict.state == ("judged",)) else place

    def _verdict(self, wanted: Wanted, answer: str, judges: Judges) -> Entry | None:
        keys = [VerdictKey(wanted.id, wanted.sample, answer, wanted.reference, judges.current)]
        if judges.earlier:
            keys.append(VerdictKey(wanted.id, wanted.sample, answer, "", judges.earlier))
        return next((self._judgements.index[key] for key in keys if key in self._judgements.index), None)

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
    return record["status"], record["reason"], record["spec"], prediction_digest(record)


def _judgement_state(record: Judgement) -> tuple[str | None, ...]:
    return ("unjudged" if record["verdict"] == "unjudged" else "judged",)
