"""How many requests the chat client has in flight, and how long it waits between them."""

import asyncio
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.asking import retry
from orchestrator.asking.client import ChatClient, RequestOutcome
from orchestrator.endpoints.endpoint import Endpoint
from tests.support.asking import ask, use, user
from tests.support.scripted_server import ScriptedServer


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in retry.CAP:
        monkeypatch.setitem(retry.CAP, reason, 0.05)


def test_window_bounds_requests_in_flight_but_not_waiting_ones(scripted_server: ScriptedServer) -> None:
    scripted_server.latency = 0.05

    async def work(client: ChatClient) -> list[RequestOutcome]:
        return await asyncio.gather(*(client.ask(user(f"q{i}"), {}) for i in range(40)))

    outcomes = use(scripted_server.base_url, work, window=4)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert scripted_server.requests()["max_in_flight"] == 4


def test_a_server_of_unknown_size_is_asked_as_carefully_as_is_wanted(scripted_server: ScriptedServer) -> None:
    scripted_server.latency = 0.3

    async def work(client: ChatClient) -> int:
        tasks = [asyncio.create_task(client.ask(user(f"q{i}"), {})) for i in range(100)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first: int = scripted_server.requests()["max_in_flight"]
        await asyncio.gather(*tasks)
        return first

    assert use(scripted_server.base_url, work, window=60, start=20) <= 21  # one more after the first answer
    assert 21 < scripted_server.requests()["max_in_flight"] <= 60


def test_after_a_429_fewer_are_in_flight(scripted_server: ScriptedServer) -> None:
    scripted_server.latency = 0.1

    async def work(client: ChatClient) -> list[RequestOutcome]:
        ask = [client.ask(user(f"q{i}"), {}) for i in range(19)] + [client.ask(user("[429x1] q"), {})]
        outcomes = await asyncio.gather(*ask)
        scripted_server.max_in_flight = 0
        return outcomes + await asyncio.gather(*(client.ask(user(f"r{i}"), {}) for i in range(60)))

    outcomes = use(scripted_server.base_url, work, window=60, start=20)
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert scripted_server.requests()["max_in_flight"] <= int(0.9 * 19)


def test_our_own_deployment_has_as_many_in_flight_as_it_is_told(
    scripted_server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("t" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    scripted_server.latency = 0.3

    async def main() -> list[int]:
        endpoint = Endpoint(scripted_server.base_url, "scripted", serve_app="kosen-test")
        client = ChatClient(endpoint, window=30, request_timeout=20)
        most = []
        for window, asked in ((30, 60), (5, 10), (1000, 60)):
            client.resize(window)
            scripted_server.max_in_flight = 0
            await asyncio.gather(*(client.ask(user(f"q{window} {i}"), {}) for i in range(asked)))
            most.append(scripted_server.max_in_flight)
        await client.close()
        return most

    assert asyncio.run(main()) == [30, 5, 30]


def test_backing_off_frees_the_slot(scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(retry.CAP, "5xx", 1.0)

    async def work(client: ChatClient) -> tuple[RequestOutcome, RequestOutcome]:
        return await asyncio.gather(client.ask(user("[500x2] q"), {}), client.ask(user("good"), {}))

    bad, good = use(scripted_server.base_url, work, window=1)
    assert bad.seconds > 1.4
    assert good.seconds < 0.7


def test_the_wait_for_a_free_slot_is_not_the_answers_time(scripted_server: ScriptedServer) -> None:
    scripted_server.latency = 0.3

    async def work(client: ChatClient) -> list[RequestOutcome]:
        return await asyncio.gather(*(client.ask(user(f"q{i}"), {}) for i in range(4)))

    outcomes = use(scripted_server.base_url, work, window=1)
    assert max(outcome.seconds for outcome in outcomes) < 0.6
    starts = sorted(datetime.fromisoformat(outcome.started_at) for outcome in outcomes)
    assert all((later - earlier).total_seconds() >= 0.29 for earlier, later in pairwise(starts))


def test_retry_after_pauses_the_whole_client(scripted_server: ScriptedServer) -> None:
    async def work(client: ChatClient) -> None:
        limited = asyncio.create_task(client.ask(user("[429x1:1.5] q"), {}))
        await asyncio.sleep(0.3)
        others = await asyncio.gather(*(client.ask(user(f"other {i}"), {}) for i in range(5)))
        assert {outcome.status for outcome in [await limited, *others]} == {"ok"}

    use(scripted_server.base_url, work)
    first, *later = scripted_server.times
    assert len(later) == 6
    assert min(later) - first >= 1.45
    assert max(later) - first < 3


def test_retry_after_as_a_date(scripted_server: ScriptedServer) -> None:
    outcome = ask(scripted_server.base_url, "[429date] q")
    assert (outcome.status, outcome.attempts) == ("ok", 2)
    assert outcome.seconds >= 0.9  # a date of whole seconds, 2 s ahead


def test_waits_grow(scripted_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(retry.CAP, "5xx", 30)
    assert ask(scripted_server.base_url, "[500x2] q").status == "ok"
    first, second = (later - earlier for earlier, later in pairwise(scripted_server.times))
    assert 0.74 <= first <= 1.4
    assert 1.49 <= second <= 2.7
