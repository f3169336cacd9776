"""The chat client against real sockets: every fault ends in the outcome that its policy promises."""

import asyncio
import gc
import socket
import time
import warnings

import pytest

from orchestrator.asking import retry
from orchestrator.asking.client import ChatClient, RequestOutcome
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import EndpointDown
from tests.support.asking import ask, use, user
from tests.support.scripted_server import ScriptedServer


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in retry.CAP:
        monkeypatch.setitem(retry.CAP, reason, 0.05)


def test_answer_comes_with_its_figures(scripted_server: ScriptedServer) -> None:
    outcome = ask(scripted_server.base_url, "what? say: 42", {"temperature": 0, "max_tokens": 9})
    assert (outcome.status, outcome.reason, outcome.detail, outcome.attempts) == ("ok", None, None, 1)
    assert outcome.response is not None
    assert "Answer: 42" in outcome.response
    assert outcome.finish_reason == "stop"
    assert outcome.usage is not None
    assert outcome.usage["total_tokens"] == outcome.usage["prompt_tokens"] + outcome.usage["completion_tokens"] > 0
    assert outcome.started_at.endswith("+00:00")
    sent = scripted_server.requests()["options"]["what? say: 42"]
    assert sent == [{"model": "scripted", "temperature": 0, "max_tokens": 9}]


@pytest.mark.parametrize(
    ("text", "attempts"),
    [
        ("[500x3] q", 4),
        ("[503x2] q", 3),
        ("[dropx3] q", 4),
        ("[dropbodyx1] q", 2),
        ("[badjsonx1] q", 2),
        ("[nochoicesx1] q", 2),
        ("[429x2] q", 3),
    ],
)
def test_passing_faults_are_tried_again(scripted_server: ScriptedServer, text: str, attempts: int) -> None:
    outcome = ask(scripted_server.base_url, text)
    assert outcome.status == "ok"
    assert outcome.attempts == attempts == scripted_server.requests()["asked"][text]


@pytest.mark.parametrize(
    ("text", "reason", "attempts", "detail"),
    [
        ("[always500] q", "5xx", 6, "500 scripted fault 500"),
        ("[badjson] q", "5xx", 6, "without a chat completion"),
        ("[nochoices] q", "5xx", 6, "upstream failed"),
        ("[drop] q", "connection", 7, "Disconnected"),  # the first drop may have been a stale connection
        ("[dropbody] q", "connection", 6, ""),
        ("[429] q", "429", 40, "Rate limit reached"),
        ("[400] q", "4xx", 1, "400 scripted fault 400"),
        ("[422] q", "4xx", 1, "422 scripted fault 422"),
        ("[empty] q", "empty", 1, "finish_reason stop"),
    ],
)
def test_lasting_faults_fail_the_item(
    scripted_server: ScriptedServer, text: str, reason: str, attempts: int, detail: str
) -> None:
    outcome = ask(scripted_server.base_url, text)
    assert (outcome.status, outcome.reason, outcome.attempts) == ("failed", reason, attempts)
    assert detail in (outcome.detail or "")
    assert outcome.response is None or outcome.response == ""


def test_deadline_is_ours_alone(scripted_server: ScriptedServer) -> None:
    outcome = ask(scripted_server.base_url, "[hang] q", timeout=0.3)
    assert (outcome.status, outcome.reason, outcome.attempts) == ("failed", "deadline", 3)
    assert 0.9 <= outcome.seconds < 3
    slow = ask(scripted_server.base_url, "[slow:7] q", timeout=8)  # longer than the keep-alive
    assert (slow.status, slow.attempts) == ("ok", 1)


@pytest.mark.parametrize(
    ("text", "reason", "response"),
    [("[truncated] q", "length", "Explanation"), ("[loop] q", "repetition", "same step"), ("[null] q", "length", None)],
)
def test_truncated_answers_are_kept(
    scripted_server: ScriptedServer, text: str, reason: str, response: str | None
) -> None:
    outcome = ask(scripted_server.base_url, text)
    assert (outcome.status, outcome.reason, outcome.finish_reason) == ("truncated", reason, "length")
    assert outcome.response is None if response is None else response in (outcome.response or "")
    assert outcome.reasoning == ("I am still thinking" if text.startswith("[null]") else None)


def test_thought_left_in_the_text_is_split_off(scripted_server: ScriptedServer) -> None:
    outcome = ask(scripted_server.base_url, "[think] q say: 7")
    assert outcome.reasoning == "let me see"
    assert (outcome.response or "").startswith("Explanation:")


def test_budget_above_the_context_is_left_to_the_server(scripted_server: ScriptedServer) -> None:
    outcome = ask(scripted_server.base_url, "[context] q", {"max_tokens": 99, "temperature": 0})
    assert (outcome.status, outcome.attempts) == ("ok", 2)
    sent = scripted_server.requests()["options"]["[context] q"]
    assert [sorted(body) for body in sent] == [["max_tokens", "model", "temperature"], ["model", "temperature"]]


class ClosingServer:
    """Answers each connection once, and closes it without having announced that, as an idle timeout would."""

    def __init__(self) -> None:
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await self._read_request(reader)
        body = b'{"choices":[{"message":{"content":"fine"},"finish_reason":"stop"}]}'
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        await reader.read(1)  # the next request has begun: the connection dies under it
        writer.close()

    async def _read_request(self, reader: asyncio.StreamReader) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))


def test_stale_connection_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(retry.TRIES, "connection", 1)  # so one counted fault would fail the item

    async def main() -> tuple[list[RequestOutcome], int]:
        closing = ClosingServer()
        server = await asyncio.start_server(closing.serve, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            client = ChatClient(Endpoint(url, "m"), window=1, request_timeout=5)
            outcomes = [await client.ask(user(f"q{i}"), {}) for i in range(3)]
            await client.close()
        return outcomes, closing.connections

    outcomes, connections = asyncio.run(main())
    assert [outcome.response for outcome in outcomes] == ["fine"] * 3
    assert [outcome.attempts for outcome in outcomes] == [1, 2, 2]
    assert connections == 3
    assert max(outcome.seconds for outcome in outcomes) < 0.5


def test_breaker_opens_when_the_endpoint_is_gone(scripted_server: ScriptedServer) -> None:
    async def work(client: ChatClient) -> float:
        assert (await client.ask(user("before"), {})).status == "ok"
        await asyncio.to_thread(scripted_server.control, "refuse")
        start = time.monotonic()
        results = await asyncio.gather(*(client.ask(user(f"q{i}"), {}) for i in range(6)), return_exceptions=True)
        assert all(isinstance(result, EndpointDown) for result in results)
        assert scripted_server.base_url in str(results[0])
        with pytest.raises(EndpointDown):
            await client.ask(user("after"), {})
        return time.monotonic() - start

    assert 1.0 <= use(scripted_server.base_url, work, patience=1.0) < 2.5


def test_nobody_ever_listened(unused_port: int) -> None:
    with pytest.raises(EndpointDown, match="Cannot connect"):
        ask(f"http://127.0.0.1:{unused_port}/v1", "q", patience=0.3)


@pytest.fixture
def unused_port() -> int:
    with ScriptedServer() as server:
        return server.port


@pytest.mark.parametrize("mode", ["refuse", "down503", "missing"])
def test_outage_within_patience_costs_no_item_its_tries(scripted_server: ScriptedServer, mode: str) -> None:
    """3 s out with waits of 0.05 s are some 60 faults an item, far more than its 6 tries."""

    async def work(client: ChatClient) -> list[RequestOutcome]:
        await client.ask(user("before"), {})
        await asyncio.to_thread(scripted_server.control, mode, 3.0)
        return await asyncio.gather(*(client.ask(user(f"q{i}"), {}) for i in range(12)))

    outcomes = use(scripted_server.base_url, work, patience=30)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert max(outcome.attempts for outcome in outcomes) > retry.TRIES["connection"]


def test_restart_in_mid_request_loses_nothing(scripted_server: ScriptedServer) -> None:
    async def work(client: ChatClient) -> list[RequestOutcome]:
        asking = [asyncio.create_task(client.ask(user(f"[slow:1] q{i}"), {})) for i in range(8)]
        await asyncio.sleep(0.4)
        await asyncio.to_thread(scripted_server.control, "refuse", 1.0)
        return await asyncio.gather(*asking)

    outcomes = use(scripted_server.base_url, work)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert min(outcome.attempts for outcome in outcomes) > 1


def test_server_of_nothing_but_500_opens_the_breaker_after_some_items(scripted_server: ScriptedServer) -> None:
    async def work(client: ChatClient) -> list[RequestOutcome | BaseException]:
        await asyncio.to_thread(scripted_server.control, "down500")
        asks = (client.ask(user(f"q{i}"), {}) for i in range(100))
        return await asyncio.gather(*asks, return_exceptions=True)

    results = use(scripted_server.base_url, work, window=64)
    failed = [result for result in results if isinstance(result, RequestOutcome)]
    assert len(failed) == retry.GIVEN_UP_LIMIT - 1
    assert {outcome.reason for outcome in failed} == {"5xx"}
    assert all(isinstance(result, EndpointDown) for result in results if not isinstance(result, RequestOutcome))


@pytest.mark.parametrize(("mode", "sentence"), [("unauthorized", "Incorrect API key"), ("missing", "does not exist")])
def test_refusal_of_the_first_request_stops_everything(
    scripted_server: ScriptedServer, mode: str, sentence: str
) -> None:
    scripted_server.control(mode)
    with pytest.raises(EndpointDown, match=sentence):
        ask(scripted_server.base_url, "q")
    assert scripted_server.requests()["total"] == 1


def test_key_is_sent_and_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", "right")

    async def one(key_name: str, url: str) -> RequestOutcome:
        client = ChatClient(Endpoint(url, "scripted", key_name=key_name), window=1, request_timeout=5)
        try:
            return await client.ask(user("q"), {})
        finally:
            await client.close()

    with ScriptedServer(api_key="right") as server:
        assert asyncio.run(one("LAB_KEY", server.base_url)).status == "ok"
        monkeypatch.setenv("OTHER_KEY", "wrong")
        with pytest.raises(EndpointDown, match="OTHER_KEY") as raised:
            asyncio.run(one("OTHER_KEY", server.base_url))
    assert "wrong" not in str(raised.value)


def test_cancellation_is_quiet_and_frees_the_slot(
    scripted_server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(client: ChatClient) -> RequestOutcome:
        hanging = [asyncio.create_task(client.ask(user("[hang] q"), {})) for _ in range(4)]
        await asyncio.sleep(0.2)
        for task in hanging:
            task.cancel()
        assert all(
            isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*hanging, return_exceptions=True)
        )
        return await client.ask(user("good"), {})

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert use(scripted_server.base_url, work, window=2).status == "ok"
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []
    assert caplog.records == []


def test_connections_are_kept_and_probed(scripted_server: ScriptedServer) -> None:
    async def work(client: ChatClient) -> None:
        for i in range(3):
            await client.ask(user(f"q{i}"), {})
        assert client._session is not None
        idle = [entry[0] for entries in client._session.connector._conns.values() for entry in entries]  # type: ignore[union-attr]
        assert len(idle) == 1
        assert idle[0].transport is not None
        sock = idle[0].transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1

    use(scripted_server.base_url, work)


def test_half_an_emoji_in_a_question_is_asked(scripted_server: ScriptedServer) -> None:
    assert ask(scripted_server.base_url, "what is \ud83d say: x").status == "ok"


def test_a_key_that_no_header_carries_is_not_shown(
    scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_KEY", "sesa\nme")

    async def one() -> None:
        client = ChatClient(Endpoint(scripted_server.base_url, "m", key_name="LAB_KEY"), window=1, request_timeout=5)
        await client.ask(user("q"), {})

    with pytest.raises(EndpointDown, match="LAB_KEY") as raised:
        asyncio.run(one())
    assert "sesa" not in str(raised.value)
    assert scripted_server.requests()["total"] == 0
