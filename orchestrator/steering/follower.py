"""How the actors of a stage learn how many requests they may have in flight at the run's own engines."""

import asyncio
import math

from ray.actor import ActorHandle
from ray.exceptions import RayError

from orchestrator.asking.client import ChatClient
from orchestrator.records.types import Stage

OPENING = 0.25  # seconds between the steps in which a window opens


class Follower:
    """Gives an actor's client its share of the stage's window, whenever the run's writer sets another one.

    A larger window opens by `step` requests at a time. Requests that come to a replica together are all parsed before
    the first one reaches the engine, which waited 2 s for 512 of them.
    """

    def __init__(self, writer: ActorHandle, stage: Stage, client: ChatClient, *, share: float, step: int) -> None:
        self._writer, self._stage, self._client = writer, stage, client
        self._share, self._step = share, step
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """On the actor's event loop; a second call does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        opened, known = self._step, None
        while True:
            try:
                window = await self._writer.window.remote(self._stage, known)
            except RayError:
                return  # the writer is gone: the next record cannot be sent, which is reported there
            if window is None:
                continue
            wanted = math.ceil(self._share * window)
            if opened < wanted:
                await asyncio.sleep(OPENING)
            opened = min(opened + self._step, wanted)
            self._client.resize(opened)
            known = window if opened == wanted else None  # None is answered at once: it may have shrunk meanwhile
