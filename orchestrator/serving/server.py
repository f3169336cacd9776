"""What runs inside Serve's replicas: the check of the API key, and the engine's start."""

import hashlib
import hmac
import os
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

HEALTH = "/health"


def key_digest(key: str) -> str:
    """What an endpoint's replica knows of its key."""
    return hashlib.sha256(key.encode()).hexdigest()


class GuardedServer(LLMServer):
    """An engine's replica that is its own ingress: vLLM's OpenAI server, behind our key.

    Ray's usual ingress is a process in front of all replicas that reads and writes every message again: 4.2 ms of CPU a
    request, and four engines on H200s waited for it.
    """

    async def __init__(self, llm_config: LLMConfig, *, digest: str, **options: Any) -> None:  # type: ignore[misc]
        self._digest = digest
        await super().__init__(llm_config, **options)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        app: FastAPI = await super().__serve_build_asgi_app__()
        for error in (EngineDeadError, EngineGenerateError):  # vLLM would end a server of its own
            app.add_exception_handler(error, answer_error)
        app.middleware_stack = None  # vLLM has built it already; the next request builds it again
        app.add_middleware(RequireKey, digest=self._digest)
        return app


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """An error of the engine in OpenAI's form."""
    message = f"{type(error).__name__}: {error}".splitlines()[0]
    return JSONResponse({"error": {"message": message, "type": type(error).__name__, "code": 500}}, status_code=500)


class RequireKey:
    """Plain ASGI, because Starlette's BaseHTTPMiddleware costs a task and two queues a request."""

    def __init__(self, app: ASGIApp, digest: str) -> None:
        self.app = app
        self.digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_open(scope) or self._has_key(scope):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # vLLM has some
            await send({"type": "websocket.close", "code": 1008})
            return
        error = {"message": "this endpoint requires its API key", "type": "authentication_error", "code": 401}
        await JSONResponse({"error": error}, status_code=401)(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope["type"] == "http" and bool(scope["path"].removeprefix(scope.get("root_path", "")) == HEALTH)

    def _has_key(self, scope: Scope) -> bool:
        header = next((value for name, value in scope["headers"] if name.lower() == b"authorization"), b"")
        scheme, _, key = header.decode("latin-1").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(key_digest(key.strip()), self.digest)


class EngineStart(CallbackBase):
    """Ray's start of an engine, less a process of imports (12 s on a small machine) and less a leak.

    By default a task of its own downloads the model before vLLM starts; vLLM downloads what it needs by itself. And
    Hugging Face tokens are copied into a runtime_env, which Ray logs; our workers read them from the secrets file.

    And vLLM, which spawns its engine's process in a replica anyway, sets where this Ray is only if no option had asked
    for that: with a shell's `spawn` no engine on a GPU would start.
    """

    async def on_before_node_init(self) -> None:
        os.environ.pop("VLLM_WORKER_MULTIPROC_METHOD", None)
        self.ctx.run_init_node = False
        variables: dict[str, Any] = (self.ctx.runtime_env or {}).get("env_vars", {})
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            variables.pop(name, None)
