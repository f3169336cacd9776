"""The run's writer, in this process: what it makes of records and disks that go wrong."""

import asyncio
import errno
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import StorageFailed
from orchestrator.records import writer
from orchestrator.records.lock import Owner
from orchestrator.records.pulse import SILENT, Beat, Life, Traffic
from orchestrator.records.types import Key, Wanted
from tests.support.harness import records
from tests.support.record_logs import prediction

PLAIN: Any = writer.RecordWriter.__ray_metadata__.modified_class  # type: ignore[attr-defined]


def sync_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the class reads its constants: cloudpickle gave it others once this process used the actor."""
    monkeypatch.setitem(inspect.unwrap(PLAIN._sync_regularly).__globals__, "SYNC_INTERVAL", 0.01)


def run(folder: Path, scenario: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        plain = PLAIN(str(folder))
        await plain.open(Owner("here", os.getpid()))
        await scenario(plain)

    asyncio.run(main())


def test_one_reply_in_twelve_that_cannot_be_written_fails_and_the_others_are_recorded(tmp_path: Path) -> None:
    async def scenario(plain: Any) -> None:
        await plain.plan([Wanted(str(number), 0, "f", "s") for number in range(12)])
        batch = [prediction(str(number)) for number in range(12)]
        batch[3]["usage"] = {"prompt_tokens": 2**64 - 1, "completion_tokens": 2**64, "total_tokens": 2**65}
        await plain.append_predictions(batch)
        seen = await plain.progress(SILENT)
        assert (seen.predicted, seen.by_status) == (12, {"ok": 11, "failed": 1})
        assert await plain.still_open([Key(str(number), 0) for number in range(12)]) == []
        await plain.close()

    run(tmp_path, scenario)
    assert [record["status"] for record in records(tmp_path / "predictions.jsonl")].count("ok") == 11


def test_a_disk_that_takes_no_data_is_seen_while_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free, fsync = threading.Event(), os.fsync
    sync_often(monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda file: free.wait(10) and fsync(file))

    async def scenario(plain: Any) -> None:
        await plain.plan([Wanted("a", 0, "f", "s")])
        await plain.append_predictions([prediction("a")])
        await asyncio.sleep(0.5)
        assert (await plain.progress(SILENT)).syncing > 0.3
        free.set()
        await asyncio.sleep(0.3)
        assert (await plain.progress(SILENT)).syncing == 0.0
        await plain.close()

    run(tmp_path, scenario)


def test_what_a_disk_refuses_behind_our_back_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota on NFS shows when the data are sent, and only once."""
    told = iter([OSError(errno.EDQUOT, "Disk quota exceeded")])

    def fsync(file: int) -> None:
        for error in told:
            raise error

    sync_often(monkeypatch)
    monkeypatch.setattr(os, "fsync", fsync)

    async def scenario(plain: Any) -> None:
        await plain.plan([Wanted(name, 0, "f", "s") for name in "ab"])
        await plain.append_predictions([prediction("a")])
        await asyncio.sleep(0.3)
        with pytest.raises(StorageFailed, match="is full"):
            await plain.append_predictions([prediction("b")])
        with pytest.raises(StorageFailed, match="is full"):
            await plain.close()

    run(tmp_path, scenario)


def test_signs_of_life_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = Beat(Life("n", 1, 1.0), "judge", True, 2, 3)

    async def scenario(plain: Any) -> None:
        await plain.beat(beat)
        await asyncio.sleep(2.3)
        seen = await plain.progress(2)
        assert seen.silent == [beat] and seen.traffic == {"judge": Traffic(2, 3)}
        await plain.forgive(beat.life)
        assert (await plain.progress(2)).silent == []
        assert await plain.pid() == os.getpid()
        await plain.close()

    run(tmp_path, scenario)
