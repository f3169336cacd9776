"""The chat client of the batching actors: one aiohttp session, bounded in flight, patient with faults.

Every request ends as an `Outcome`, whatever happened to it; `EndpointDown` is raised only when no item can succeed.
What is tried again, and how long, is decided in `orchestrator.retry`.
"""

import asyncio
import json
import random
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
from yarl import URL

from orchestrator.concurrency import RateWindow
from orchestrator.discovery import auth_headers, proxy_for
from orchestrator.endpoint import Endpoint
from orchestrator.errors import EndpointDown
from orchestrator.limiter import Limiter
from orchestrator.records import Reason, Status, Usage
from orchestrator.repetition import has_loop
from orchestrator.retry import (
    CONNECT_TIMEOUT,
    PATIENCE,
    PAUSE_SPREAD,
    SERVE_PATIENCE,
    Fault,
    Health,
    Tries,
    fault_of_error,
    fault_of_status,
)

# Seconds an idle connection is kept: less than the 5 s after which uvicorn, under vLLM and Serve, closes it.
KEEP_ALIVE = 4.0
DETAIL_LIMIT = 1000  # characters of a server's message that a record keeps
_BUDGET_OPTIONS = ("max_tokens", "max_completion_tokens")
_CONTEXT = re.compile(
    r"context.{0,20}(length|window|size|exceed)|max_(completion_)?tokens.{0,40}(too large|greater than)", re.I | re.S
)
_KEY_REFUSED = (401, 402)  # wrong or unpaid; never about the one item that was asked
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNFINISHED = ("abort", "error")  # finish reasons of engines that were shut down in mid-answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished request, whatever happened."""

    status: Status
    reason: Reason | None
    detail: str | None  # the server's own words when something went wrong
    response: str | None
    reasoning: str | None
    finish_reason: str | None
    usage: Usage | None
    attempts: int  # requests that were sent
    started_at: str  # when the first request was sent; ISO 8601, UTC
    seconds: float  # from then to the end, waits between attempts included


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said, and asking again would not change."""

    status: Status
    reason: Reason | None = None
    detail: str | None = None
    response: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(slots=True)
class _Item:
    """One question on its way."""

    request: dict[str, Any]
    body: bytes
    tries: Tries = field(default_factory=Tries)
    attempts: int = 0
    started_at: datetime | None = None  # when the first request was sent, after the wait for a free slot
    start: float = 0.0  # the same on the monotonic clock
    resent: bool = False  # over a fresh connection, the first one had been stale

    def count(self) -> None:
        """A request is about to be sent."""
        if self.started_at is None:
            self.started_at, self.start = datetime.now(UTC), time.monotonic()
        self.attempts += 1


class ChatClient:
    """Asks one endpoint, with at most `window` requests in flight and `request_timeout` seconds for each attempt.

    At first `start` are in flight, by default the whole window. Elsewhere than at our own deployments, where `resize`
    says how many, answers let them become more, and a 429 fewer.
    `patience` is how many seconds an endpoint may be gone before `ask` raises EndpointDown; by default 120, and 900 for
    our own deployments, whose engines reload. Use a client on one event loop only.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        window: int,
        request_timeout: float,
        start: int | None = None,
        patience: float | None = None,
    ) -> None:
        default = SERVE_PATIENCE if endpoint.serve_app else PATIENCE
        self._endpoint = endpoint
        self._url = URL(f"{endpoint.base_url}/chat/completions")
        self._window = window
        self._rate = None if endpoint.serve_app else RateWindow(start=start or window, least=1, most=window)
        self._slots = Limiter(start or window)
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, connect=min(CONNECT_TIMEOUT, request_timeout / 2))
        self._health = Health(default if patience is None else patience)
        self._session: aiohttp.ClientSession | None = None
        self.heard = 0  # responses of any kind

    @property
    def in_flight(self) -> int:
        return self._slots.held

    async def ask(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> Outcome:
        """Ask until there is an answer or the item has used its tries; `options` are further keys of the body.

        Raises EndpointDown when the endpoint is gone for good, or refuses us whatever we ask.
        """
        request = {"model": self._endpoint.model, "messages": messages, **options}
        item = _Item(request, _encode(request))
        reply = await self._persist(item)
        assert item.started_at  # a reply is an answer to something
        return Outcome(
            status=reply.status,
            reason=reply.reason,
            detail=reply.detail and reply.detail[:DETAIL_LIMIT],
            response=reply.response,
            reasoning=reply.reasoning,
            finish_reason=reply.finish_reason,
            usage=reply.usage,
            attempts=item.attempts,
            started_at=item.started_at.isoformat(timespec="milliseconds"),
            seconds=round(time.monotonic() - item.start, 3),
        )

    def resize(self, window: int) -> None:
        """Have so many requests in flight from now on, if the first window allows. What is under way stays so."""
        self._slots.resize(min(max(window, 1), self._window))

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    async def _persist(self, item: _Item) -> Reply:
        health, tries = self._health, item.tries
        while True:
            self._raise_if_down()
            result = await self._attempt(item)
            if isinstance(result, Reply):
                health.success()
                return result
            health.fault(result)
            tries.add(result, free=result.of_endpoint and health.out)
            exhausted = tries.exhausted(result.reason)
            if exhausted:
                health.give_up(result)
            self._raise_if_down()
            if exhausted:
                return Reply("failed", result.reason, result.detail)
            await asyncio.sleep(tries.wait(result.reason))

    async def _attempt(self, item: _Item) -> Reply | Fault:
        """One attempt, and at once another after a stale connection or a token budget above the context."""
        result = await self._post(item)
        if isinstance(result, Fault) and result.stale and not item.resent:
            item.resent = True
            result = await self._post(item)
        if isinstance(result, Reply) and result.reason == "4xx" and _drop_budget(item.request, result.detail or ""):
            item.body = _encode(item.request)
            result = await self._post(item)
        return result

    async def _post(self, item: _Item) -> Reply | Fault:
        """Send one request. A slot is held only while it is in the air."""
        while True:
            async with self._slots:
                wait = self._health.pause()
                if not wait:
                    item.count()
                    result = await self._exchange(item.body)
                    self._adapt(result)
                    return result
            await asyncio.sleep(wait * random.uniform(1, 1 + PAUSE_SPREAD))

    def _adapt(self, result: Reply | Fault) -> None:
        """Learn from a response what a server takes that tells nothing else; this request still holds its slot."""
        if self._rate is None:
            return
        if isinstance(result, Reply):
            self._rate.answered(time.monotonic(), self._slots.held)
        elif result.reason == "429":
            self._rate.refused(time.monotonic(), self._slots.held - 1)
        self._slots.resize(self._rate.size)

    async def _exchange(self, body: bytes) -> Reply | Fault:
        session = self._session or self._open()
        sent = time.monotonic()
        try:
            async with session.post(self._url, data=body) as response:
                content = await response.read()
                self.heard += 1
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return fault_of_error(error, time.monotonic() - sent)
        if response.status == 200:
            return read_reply(content)
        return self._read_error(response.status, read_message(content), response.headers.get("Retry-After"))

    def _read_error(self, status: int, message: str, retry_after: str | None) -> Reply | Fault:
        detail = f"{status} {message}"
        fault = fault_of_status(status, detail, retry_after)
        if fault:
            return fault
        if status == 404 and self._health.answered:  # the deployment was taken away, or is being replaced
            return Fault("connection", detail, of_endpoint=True)
        if status in _KEY_REFUSED or (status == 403 and not self._health.answered):
            key = self._endpoint.key_name
            self._health.open(f"it refuses {f'the key in {key}' if key else 'us'}: {detail}")
        elif (
            status in (404, 405) and not self._health.answered
        ):  # 405: an address that redirects, so that POST became GET
            self._health.open(f"it has no chat model {self._endpoint.model!r}: {detail}")
        self._raise_if_down()
        return Reply("failed", "4xx", detail)

    def _open(self) -> aiohttp.ClientSession:
        """The session belongs to the event loop that is running, so the first request makes it."""
        connector = aiohttp.TCPConnector(
            limit=self._window, keepalive_timeout=KEEP_ALIVE, socket_factory=_keepalive_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Content-Type": "application/json", **auth_headers(self._endpoint)},
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy_for(self._endpoint),  # asked once, aiohttp would read it for every request
        )
        return self._session

    def _raise_if_down(self) -> None:
        if self._health.verdict:
            raise EndpointDown(
                f"the endpoint {self._endpoint.base_url} cannot be used: {self._health.verdict}. Answers so far are "
                "recorded: make it serve the model again, then give the same command to go on"
            )


def read_reply(content: bytes) -> Reply | Fault:
    """Read the body of a 200. A Fault where it holds no finished chat completion."""
    try:
        return _read_completion(_decode(content))
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
        return Fault("5xx", f"200 without a chat completion: {read_message(content)}")


def _read_completion(body: dict[str, Any]) -> Reply | Fault:
    choice = body["choices"][0]
    message, finish = choice["message"], choice.get("finish_reason")
    if finish in _UNFINISHED:
        return Fault("5xx", f"200 with finish_reason {finish}")
    response, reasoning = _texts(message)
    status, reason, detail = _judge(response, reasoning, finish)
    return Reply(status, reason, message.get("refusal") or detail, response, reasoning, finish, _usage(body))


def read_message(content: bytes) -> str:
    """The server's sentence in the body of an error, in the shapes that OpenAI, vLLM, FastAPI and Ollama use."""
    try:
        body = _decode(content)
    except (ValueError, RecursionError):
        return _one_line(content.decode(errors="replace"))
    while isinstance(body, dict):
        body = next((body[key] for key in ("error", "message", "detail") if body.get(key)), str(body))
    return _one_line(str(body))


def _decode(content: bytes) -> Any:
    """The value of a JSON text. Half of an emoji, which orjson refuses to read and to write, becomes U+FFFD.

    Raises ValueError for what is no JSON, RecursionError for thousands of brackets.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        value = json.loads(content.decode(errors="replace"))
        return orjson.loads(_SURROGATE.sub("\ufffd", json.dumps(value, ensure_ascii=False)))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:DETAIL_LIMIT]


def _encode(request: dict[str, Any]) -> bytes:
    """JSON; the standard library takes what orjson refuses, half of an emoji in a data set for example."""
    try:
        return orjson.dumps(request)
    except orjson.JSONEncodeError:
        return json.dumps(request).encode()


def split_thought(content: str) -> tuple[str | None, str | None]:
    """Separate a thought that no reasoning parser took out of the text; (thought, answer), None where there is none.

    Chat templates often open the thought in the prompt, so the opening tag may be missing.
    """
    before, closing, after = content.partition("</think>")
    opening = before.lstrip().startswith("<think>")
    if not opening and (not closing or "<think>" in before):
        return None, content
    thought = before.lstrip().removeprefix("<think>").strip()
    return thought or None, after.lstrip() or None


def _texts(message: dict[str, Any]) -> tuple[str | None, str | None]:
    """Answer and thought of a message; vLLM calls the second `reasoning`, older servers `reasoning_content`."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    reasoning = message.get("reasoning") or message.get("reasoning_content") or None
    if content and "think>" in content and not reasoning:
        reasoning, content = split_thought(content)
    return content, reasoning


def _judge(response: str | None, reasoning: str | None, finish: str | None) -> tuple[Status, Reason | None, str | None]:
    if finish == "repetition":
        return "truncated", "repetition", "the engine found a loop"
    if finish == "length":
        return "truncated", "repetition" if has_loop(response or reasoning or "") else "length", None
    if not response or response.isspace():
        return "failed", "empty", f"no text, finish_reason {finish}"
    return "ok", None, None


def _usage(body: dict[str, Any]) -> Usage | None:
    usage = body.get("usage")
    if not usage:
        return None
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _drop_budget(request: dict[str, Any], detail: str) -> bool:
    """Take our token budget out if it was refused as too large: a vLLM server then gives what the context has left."""
    if not detail.startswith("400") or not _CONTEXT.search(detail):
        return False
    given = [option for option in _BUDGET_OPTIONS if request.pop(option, None)]
    return bool(given)


def _keepalive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Probes tell a thinking server from a vanished one within 3 minutes, and keep firewalls from forgetting us."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 8)
    # Probes wait for a request that nobody acknowledged, which the kernel would send again for 15 minutes.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 180_000)
    return sock
