"""How the actors of a stage learn how many requests they may have in flight at the run's own engines."""

import asyncio
import math

from ray.actor import ActorHandle
from ray.exceptions import RayError

from orchestrator.client import ChatClient
from orchestrator.records import Stage


class Follower:
    """Gives an actor's client its share of the stage's window, whenever the run's writer tells another one."""

    def __init__(self, writer: ActorHandle, stage: Stage, client: ChatClient, share: float) -> None:
        self._writer, self._stage, self._client, self._share = writer, stage, client, share
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """On the actor's event loop; a second call does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        window: int | None = None
        while True:
            try:
                window = await self._writer.window.remote(self._stage, window)
            except RayError:
                return  # the writer is gone: the next record cannot be sent, which is said there
            if window is not None:
                self._client.resize(math.ceil(self._share * window))
