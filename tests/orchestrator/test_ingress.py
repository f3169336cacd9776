"""The key at an endpoint's door, for every kind of connection."""

import asyncio
import os
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from orchestrator.serving.server import EngineStart, RequireKey, key_digest

Headers = list[tuple[bytes, bytes]]
KEY: Headers = [(b"authorization", b"Bearer right")]


def connect(kind: str, path: str, headers: Headers) -> tuple[bool, list[Message]]:
    """Whether the application behind the door was reached, and what the client was told."""
    reached, told = False, list[Message]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal reached
        reached = True

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        told.append(message)

    scope: dict[str, Any] = {"type": kind, "path": path, "root_path": "/app", "headers": headers}
    asyncio.run(RequireKey(app, key_digest("right"))(scope, receive, send))
    return reached, told


@pytest.mark.parametrize("headers", [[], [(b"authorization", b"Bearer wrong")], [(b"authorization", b"Basic right")]])
def test_without_the_key_only_health_is_reached(headers: Headers) -> None:
    assert connect("http", "/app/health", headers)[0]
    for path in ("/app/v1/models", "/app/metrics", "/app/health/more"):
        reached, told = connect("http", path, headers)
        assert (reached, told[0]["status"]) == (False, 401)
    assert connect("websocket", "/app/v1/realtime", headers) == (False, [{"type": "websocket.close", "code": 1008}])


def test_with_the_key_everything_is_reached() -> None:
    for kind, path in (("http", "/app/v1/models"), ("websocket", "/app/v1/realtime")):
        assert connect(kind, path, KEY) == (True, [])
    assert connect("lifespan", "", [])[0]


def test_an_engine_starts_without_tokens_and_as_vllm_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    config: Any = None  # of no use here
    start = EngineStart(config, ctx_kwargs={"runtime_env": {"env_vars": {"HF_TOKEN": "secret", "HF_HOME": "/home"}}})
    asyncio.run(start.on_before_node_init())
    assert start.ctx.runtime_env == {"env_vars": {"HF_HOME": "/home"}}
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in os.environ
