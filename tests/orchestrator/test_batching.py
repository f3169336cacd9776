"""Batching: what Ray's errors become for the user, and the outbox that carries records to the writer."""

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from orchestrator.errors import ClusterNotReady, StorageFailed, cause_of
from orchestrator.stages.stage import (
    WINDOW_PER_ACTOR,
    Outbox,
    Pick,
    RowStore,
    configure_ray_data,
    gather_all,
    run_stage,
)


def test_the_error_of_an_actor_is_found_behind_rays() -> None:
    error = StorageFailed("the disk is full")
    inner = RayTaskError("append", "…", error)
    outer = RayTaskError("work", "…", inner.as_instanceof_cause())
    assert cause_of(outer) is error
    assert isinstance(cause_of(ActorDiedError()), ClusterNotReady)


def test_a_lone_record_leaves_at_once_and_many_share_calls() -> None:
    async def scenario() -> list[list[int]]:
        calls: list[list[int]] = []

        async def send(records: list[int]) -> None:
            calls.append(records)
            await asyncio.sleep(0.01)

        outbox = Outbox[int](send)
        await outbox.put(0)
        await asyncio.gather(*(outbox.put(number) for number in range(1, 101)))
        return calls

    calls = asyncio.run(scenario())
    assert calls[0] == [0]
    assert sorted(record for call in calls for record in call) == list(range(101))
    assert len(calls) < 10


def test_a_refused_record_raises_where_it_was_put() -> None:
    async def scenario() -> None:
        async def send(records: list[int]) -> None:
            raise StorageFailed("full")

        await gather_all([Outbox[int](send).put(1)])

    with pytest.raises(StorageFailed):
        asyncio.run(scenario())


class Waiting:
    """Notes its rows, and has done none of them before all of the stage are in somebody's hands."""

    def __init__(self, folder: Path, window: int) -> None:
        self._file = folder / str(os.getpid())

    async def work(self, rows: list[dict[str, Any]]) -> None:
        with self._file.open("a") as file:
            file.writelines("row\n" for _ in rows)
        async with asyncio.timeout(30):
            while _rows_by_actor(self._file.parent).total() < rows[0]["all"]:  # noqa: ASYNC110 - other processes write
                await asyncio.sleep(0.05)


def _rows_by_actor(folder: Path) -> Counter[str]:
    return Counter({file.name: len(file.read_text().splitlines()) for file in folder.iterdir()})


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("rows", [1024, 708])  # 16 blocks, and 12 of which the last has 4 rows: as many for each
def test_two_actors_have_all_rows_of_a_short_stage_in_hand_and_half_of_them_each(rows: int, tmp_path: Path) -> None:
    """With window and rows of `jobs.bench`, and with a store whose last chunk is not full."""
    configure_ray_data()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import it
    window = WINDOW_PER_ACTOR * 5 // 4
    store, picks = RowStore({"all": rows} for _ in range(rows)), [Pick(place, 0) for place in range(rows)]
    assert run_stage(Waiting, tmp_path, store, picks, total=rows, window=window) == rows
    shares = _rows_by_actor(tmp_path)
    assert len(shares) == 2
    assert max(shares.values()) - min(shares.values()) <= 64  # a block's rows
