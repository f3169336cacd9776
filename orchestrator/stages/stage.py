"""Ray Data feeds rows to async actors and bounds how many are in flight; the actors send results to the run's writer.

Ray Data hands a row on only when its whole block is done, so nothing waits for what it returns: a stage's output is a
count. A killed actor is restarted by Ray Data and gets its blocks again; it asks the writer what is left of them.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from itertools import groupby, islice
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import orjson
import pyarrow as pa
import ray
import ray.data
from ray import cloudpickle
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from orchestrator.errors import KosenError, cause_of

MAX_BATCH = 128  # rows a block: Ray Data moved 281 rows/s with 16 a block and 1,493 with 128
# Calls in one actor's hands, which may wait at the writer; up to twice as many where blocks are cut to equal size.
MAX_BLOCKS = 64
# Rows in work for each request in flight. A block leaves when its longest answer is there, and a thought may take ten
# times the mean; with 2 the window was half empty (tests/orchestrator/test_predicting.py).
AHEAD = 16
WINDOW_PER_ACTOR = 512  # requests one client keeps in flight at 0.6 ms of CPU each

T = TypeVar("T")


class Worker(Protocol):
    """Lives in an actor. `window` is the actor's share of the stage's requests in flight."""

    def __init__(self, config: Any, window: int) -> None: ...

    async def work(self, rows: list[dict[str, Any]]) -> None:
        """Finish every row: its result is at the writer when this returns."""


class Pick(NamedTuple):
    """A row of a `RowStore` by its place, and which of its samples."""

    place: int
    sample: int


class RowStore:
    """Rows in Ray's object store, put there once for all stages; what Ray Data moves are tickets to them.

    So the driver holds no copy of what it sends, however many questions an exam has.
    """

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        iterator = iter(rows)
        self._refs: list[ray.ObjectRef] = []
        while chunk := list(islice(iterator, MAX_BATCH)):
            self._refs.append(ray.put(orjson.dumps(chunk)))

    def tickets(self, picks: Iterable[Pick], size: int) -> Iterator[pa.Table]:
        """Tickets of at most `size` picks, each with the reference to the rows that they pick from."""
        for block, group in groupby(picks, lambda pick: pick.place // MAX_BATCH):
            while chunk := [(pick.place % MAX_BATCH, pick.sample) for pick in islice(group, size)]:
                yield pa.table({"ticket": [cloudpickle.dumps((self._refs[block], chunk))]})


def run_stage(
    worker: type[Worker],
    config: Any,
    store: RowStore,
    picks: Iterable[Pick],
    *,
    total: int,
    window: int,
    least_ahead: int = 0,
    node: str | None = None,
) -> int:
    """Run `picks` (`total` of them, in the store's order) through actors of `worker`; returns how many came through.

    `window` requests are in flight over all actors, and AHEAD times as many rows, `least_ahead` at least, are in the
    actors' hands, so that their semaphores never run dry. `node` (Ray's id) ties the actors to a host, for servers that
    only this host can reach. The first KosenError of an actor ends the stage and is raised here.
    """
    if not total:
        return 0
    actors = math.ceil(window / WINDOW_PER_ACTOR)
    share = math.ceil(window / actors)
    rows_ahead = max(AHEAD * window, least_ahead)
    batch = max(share // 4, math.ceil(rows_ahead / (actors * MAX_BLOCKS)))
    batch = max(1, min(MAX_BATCH, batch, math.ceil(total / (4 * actors))))
    # The store's chunks are cut into equal blocks: actors take turns, and one of two would get all the larger ones.
    batch = math.ceil(MAX_BATCH / math.ceil(MAX_BATCH / batch))
    tickets = list(store.tickets(picks, batch))
    # No more than its part of all, or the actor that starts first would take what the others want.
    ahead = max(4, math.ceil(len(tickets) * min(1.0, rows_ahead / total) / actors))
    dataset = ray.data.from_blocks(tickets).map_batches(
        _Actor,
        fn_constructor_args=(worker, config, share),
        batch_size=None,  # a block is a ticket
        batch_format="pyarrow",
        label_selector={"ray.io/node-id": node} if node else None,
        num_cpus=0.01,  # waits for the network; engines have booked the CPUs
        compute=ActorPoolStrategy(
            size=actors, max_tasks_in_flight_per_actor=ahead, max_concurrent_calls_per_actor=ahead
        ),
    )
    try:
        return sum(int(row["rows"]) for row in dataset.iter_rows())
    except RayError as error:
        raise cause_of(error) from error


def configure_ray_data() -> None:
    """Settings for this driver's data sets.

    Ray Data ends an execution without progress for 30 minutes; one long thought, or a restarted engine, may
    take longer, and requests have deadlines of their own. Its bars and reports are off: the run's own progress says
    what matters.
    """
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = -1
    context.raise_original_map_exception = True  # else an actor's KosenError comes as text in an error of Ray Data's
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its errors reach us as exceptions too


class _Actor:
    """The callable that Ray Data makes an actor of."""

    def __init__(self, worker: type[Worker], config: Any, window: int) -> None:
        self._worker = worker(config, window)

    async def __call__(self, block: pa.Table) -> Any:
        reference, picks = cloudpickle.loads(block.column("ticket")[0].as_py())
        stored = orjson.loads(await reference)
        await self._worker.work([stored[place] | {"sample": sample} for place, sample in picks])
        yield pa.table({"rows": [len(picks)]})


class Outbox(Generic[T]):
    """Sends records to the writer one call after the other; what is finished during a call travels with the next.

    So a lone record leaves at once, and a thousand a second cost few calls.
    """

    def __init__(self, send: Callable[[list[T]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def put(self, record: T) -> None:
        """Returns when the writer has the record; raises what the writer raised."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        await done

    async def _drain(self) -> None:
        while self._waiting:
            sending, self._waiting = self._waiting, []
            try:
                await self._send([record for record, _ in sending])
            except (RayError, KosenError) as error:
                for _, done in sending:
                    done.set_exception(error)
            else:
                for _, done in sending:
                    done.set_result(None)


async def gather_all(coroutines: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await all; the first failure cancels the others and is raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
