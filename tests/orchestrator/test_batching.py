"""Batching: what Ray's errors become for the user, and the outbox that carries records to the writer."""

import asyncio

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from orchestrator.batching import Outbox, cause_of, gather_all
from orchestrator.errors import ClusterNotReady, StorageFailed


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
