"""The resizable semaphore: order, growth, shrinking without harm, and cancelled waiters."""

import asyncio
from collections.abc import Awaitable, Callable

from orchestrator.concurrency.limiter import Limiter


def scenario(work: Callable[[Limiter, list[int], Callable[[int], asyncio.Task[None]]], Awaitable[None]]) -> None:
    """Run `work` with a limiter of 2, the list of those who got in, and a way to let one more come."""

    async def main() -> None:
        limiter = Limiter(2)
        entered: list[int] = []

        async def hold(number: int) -> None:
            async with limiter:
                entered.append(number)
                await asyncio.sleep(3600)

        await work(limiter, entered, lambda number: asyncio.create_task(hold(number)))

    asyncio.run(main())


async def end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)


def test_the_first_to_come_is_the_first_to_enter() -> None:
    async def work(limiter: Limiter, entered: list[int], come: Callable[[int], "asyncio.Task[None]"]) -> None:
        tasks = [come(number) for number in range(5)]
        await asyncio.sleep(0)
        assert entered == [0, 1]
        await end(tasks[1])
        assert entered == [0, 1, 2]
        limiter.resize(4)
        await asyncio.sleep(0)
        assert entered == [0, 1, 2, 3, 4]
        assert limiter.held == 4

    scenario(work)


def test_a_smaller_size_ends_nobody_and_lets_fewer_start() -> None:
    async def work(limiter: Limiter, entered: list[int], come: Callable[[int], "asyncio.Task[None]"]) -> None:
        tasks = [come(number) for number in range(4)]
        await asyncio.sleep(0)
        limiter.resize(1)
        assert not tasks[0].done() and not tasks[1].done()
        await end(tasks[0])
        assert (entered, limiter.held) == ([0, 1], 1)
        await end(tasks[1])
        assert (entered, limiter.held) == ([0, 1, 2], 1)

    scenario(work)


def test_who_is_cancelled_while_waiting_takes_no_place() -> None:
    async def work(limiter: Limiter, entered: list[int], come: Callable[[int], "asyncio.Task[None]"]) -> None:
        tasks = [come(number) for number in range(4)]
        await asyncio.sleep(0)
        await end(tasks[2])
        await end(tasks[0])
        assert (entered, limiter.held) == ([0, 1, 3], 2)
        late = come(4)
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)  # the turn of `late` has come, and it does not know yet
        late.cancel()
        await asyncio.gather(tasks[1], late, return_exceptions=True)
        assert limiter.held == 1

    scenario(work)
