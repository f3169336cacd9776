"""How tests ask with a chat client of their own."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.asking.client import ChatClient, RequestOutcome
from orchestrator.endpoints.endpoint import Endpoint


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def use(
    base_url: str, work: Callable[[ChatClient], Awaitable[Any]], *, window: int = 8, timeout: float = 20, **more: Any
) -> Any:
    """Run `work` with a client of its own on a loop of its own."""

    async def main() -> Any:
        client = ChatClient(Endpoint(base_url, "scripted"), window=window, request_timeout=timeout, **more)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(main())


def ask(base_url: str, text: str, options: dict[str, Any] | None = None, **more: Any) -> RequestOutcome:
    return use(base_url, lambda client: client.ask(user(text), options or {}), **more)
