"""A semaphore whose size may change while it is held."""

import asyncio
from collections import deque


class Limiter:
    """Lets at most `size` blocks run at once, first come first served. A smaller size ends none, it lets fewer start.

    Use it on one event loop only.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def resize(self, size: int) -> None:
        if size != self.size:
            self.size = size
            self._admit()

    async def __aenter__(self) -> None:
        if self.held < self.size and not self._waiting:
            self.held += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn had come
                self._release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def _release(self) -> None:
        self.held -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.held < self.size:
            turn = self._waiting.popleft()
            if not turn.done():  # else it was cancelled
                self.held += 1
                turn.set_result(None)
