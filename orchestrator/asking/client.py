"""The chat client of the batching actors: one aiohttp session, bounded in flight, patient with faults.

Every request ends as an `Outcome`, whatever happened to it; `EndpointDown` is raised only when no item can succeed.
What is tried again, and how long, is decided in `orchestrator.asking.retry`; what bodies say is read in
`orchestrator.asking.replies`, and what is asked instead of what a server refuses in `orchestrator.asking.adapting`.
"""

import asyncio
import json
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import aiohttp
import orjson
from yarl import URL

from orchestrator.asking.adapting import Adaptation, Change, adapt
from orchestrator.asking.replies import Reply, read_reply
from orchestrator.asking.retry import (
    CONNECT_TIMEOUT,
    PATIENCE,
    PAUSE_SPREAD,
    SERVE_PATIENCE,
    Fault,
    Health,
    Tries,
    fault_of_error,
    fault_of_refusal,
)
from orchestrator.concurrency.limiter import Limiter
from orchestrator.concurrency.window import RateWindow
from orchestrator.endpoints.discovery import auth_headers, proxy_for
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.endpoints.refusals import DETAIL_LIMIT, Refusal, one_line, read_refusal
from orchestrator.errors import EndpointDown
from orchestrator.records.types import Reason, Status, Usage

# Seconds an idle connection is kept: less than the 5 s after which uvicorn, under vLLM and Serve, closes it.
KEEP_ALIVE = 4.0
_KEY_REFUSED = (401, 402)  # wrong or unpaid; never about the one item that was asked


@dataclass(frozen=True, slots=True)
class RequestOutcome:
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
    system_fingerprint: str | None = None  # what the server calls the state that it was in
    adapted: tuple[str, ...] = ()  # how the request that was answered differs from what was asked, in plain words


@dataclass(slots=True)
class _Item:
    """One question on its way."""

    request: dict[str, Any]
    body: bytes
    changes: list[Change]  # that the request needed, from the start or after a refusal
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
        self._adaptation = Adaptation()
        self._session: aiohttp.ClientSession | None = None
        self.heard = 0  # responses of any kind

    @property
    def in_flight(self) -> int:
        return self._slots.held

    async def ask(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> RequestOutcome:
        """Ask until there is an answer or the item has used its tries; `options` are further keys of the body.

        What the server refuses of a request is changed as `orchestrator.asking.adapting` says, and listed in `adapted`.
        Raises EndpointDown when the endpoint is gone for good, or refuses us whatever we ask.
        """
        request = {"model": self._endpoint.model, "messages": messages, **options}
        changes = self._adaptation.apply(request)
        item = _Item(request, _encode(request), changes)
        reply = await self._persist(item)
        assert item.started_at  # a reply is an answer to something
        return RequestOutcome(
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
            system_fingerprint=reply.system_fingerprint,
            adapted=tuple(dict.fromkeys(map(str, item.changes))),
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
        """One attempt, and at once another after a stale connection or a refusal that a changed request escapes."""
        result = await self._post(item)
        if isinstance(result, Fault) and result.stale and not item.resent:
            item.resent = True
            result = await self._post(item)
        while isinstance(result, Refusal) and adapt(item.request, result, item.changes):
            item.body = _encode(item.request)
            result = await self._post(item)
        if isinstance(result, Reply):
            self._adaptation.learn(item.changes)
        return self._settle(result) if isinstance(result, Refusal) else result

    async def _post(self, item: _Item) -> Reply | Fault | Refusal:
        """Send one request. A slot is held only while it is in the air."""
        while True:
            async with self._slots:
                wait = self._health.pause()
                if not wait:
                    item.count()
                    result = await self._exchange(item.body)
                    self._pace(result)
                    return result
            await asyncio.sleep(wait * random.uniform(1, 1 + PAUSE_SPREAD))

    def _pace(self, result: Reply | Fault | Refusal) -> None:
        """Learn from a response how much a server takes that reports nothing else; this request holds its slot."""
        if self._rate is None:
            return
        fault = fault_of_refusal(result, self._health.answered) if isinstance(result, Refusal) else None
        if fault and fault.reason == "429":
            self._rate.refused(time.monotonic(), self._slots.held - 1)
        elif not fault and not isinstance(result, Fault):
            self._rate.answered(time.monotonic(), self._slots.held)
        self._slots.resize(self._rate.size)

    async def _exchange(self, body: bytes) -> Reply | Fault | Refusal:
        session = self._session or self._open()
        sent = time.monotonic()
        try:
            async with session.post(self._url, data=body) as response:
                content = await response.read()
                self.heard += 1
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            fault = fault_of_error(error, time.monotonic() - sent)
            return replace(fault, detail=one_line(fault.detail))
        retry_after = response.headers.get("Retry-After")
        if not 200 <= response.status < 300:
            return read_refusal(response.status, content, retry_after)
        result = read_reply(content)
        return replace(result, retry_after=retry_after) if isinstance(result, Refusal) else result

    def _settle(self, refusal: Refusal) -> Reply | Fault:
        """A refusal that stands: of all clients for now, of ours for good, or of this one item."""
        fault = fault_of_refusal(refusal, self._health.answered)
        if fault:
            return fault
        status, detail, answered = refusal.status, refusal.detail, self._health.answered or refusal.within
        if status in _KEY_REFUSED or (status == 403 and not answered):
            key = self._endpoint.key_name
            self._health.open(f"it refuses {f'the key in {key}' if key else 'us'}: {detail}")
        elif status in (404, 405) and not self._health.answered:  # 405: a redirected address, so that POST became GET
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
                "recorded: make it serve the model again, then run the same command to resume"
            )


def _encode(request: dict[str, Any]) -> bytes:
    """JSON; the standard library takes what orjson refuses, half of an emoji in a data set for example."""
    try:
        return orjson.dumps(request)
    except orjson.JSONEncodeError:
        return json.dumps(request).encode()


def _keepalive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Probes distinguish a busy server from a vanished one within 3 minutes, and keep firewalls from forgetting us."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 8)
    # Probes wait for a request that was not acknowledged, which the kernel would send again for 15 minutes.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 180_000)
    return sock
