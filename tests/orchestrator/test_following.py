"""From the run's writer to the requests that each stage has in flight, with a real writer and a real server."""

import asyncio
import time
from pathlib import Path

import pytest

from orchestrator.asking.client import ChatClient
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.records.types import Stage
from orchestrator.records.writer_client import open_writer
from orchestrator.steering.follower import OPENING, Follower
from tests.support.scripted_server import ScriptedServer


@pytest.mark.usefixtures("connected")
def test_each_stage_has_its_own_window(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    def in_flight(stage: Stage) -> int:
        scripted_server.max_in_flight = 0
        asyncio.run(ask_all(stage))
        return scripted_server.max_in_flight

    async def ask_all(stage: Stage) -> None:
        client = ChatClient(
            Endpoint(scripted_server.base_url, "scripted", serve_app="ours"), window=40, request_timeout=20
        )
        Follower(writer, stage, client, share=0.5, step=40).start()
        await asyncio.sleep(1)  # for the window that there is
        await asyncio.gather(*(client.ask([{"role": "user", "content": "?"}], {}) for _ in range(40)))
        await client.close()

    scripted_server.latency = 0.3
    with open_writer(tmp_path) as writer:
        writer.set_window.remote("judge", 13)
        assert in_flight("predict") == 40
        assert in_flight("judge") == 7
        writer.set_window.remote("predict", 20)
        assert in_flight("predict") == 10


@pytest.mark.usefixtures("connected")
def test_a_window_opens_by_a_few_requests_at_a_time(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    async def ask_all() -> None:
        client = ChatClient(
            Endpoint(scripted_server.base_url, "scripted", serve_app="ours"), window=40, request_timeout=60, start=10
        )
        began = time.monotonic()
        Follower(writer, "predict", client, share=0.5, step=10).start()
        asked = [asyncio.create_task(client.ask([{"role": "user", "content": "?"}], {})) for _ in range(40)]
        in_flight = 0
        while in_flight < 35:
            await asyncio.sleep(OPENING / 5)
            in_flight = scripted_server.max_in_flight
            steps = int((time.monotonic() - began) / OPENING)
            assert in_flight <= 10 * (1 + steps) and steps < 80
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await client.close()

    scripted_server.latency = 30
    with open_writer(tmp_path) as writer:
        writer.set_window.remote("predict", 70)
        asyncio.run(ask_all())
    assert scripted_server.max_in_flight == 35


@pytest.mark.usefixtures("connected")
def test_a_window_that_shrinks_while_it_opens_is_heard_at_once(
    scripted_server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask_all() -> None:
        client = ChatClient(
            Endpoint(scripted_server.base_url, "scripted", serve_app="ours"), window=40, request_timeout=60, start=10
        )
        Follower(writer, "predict", client, share=0.5, step=1).start()
        asked = [asyncio.create_task(client.ask([{"role": "user", "content": "?"}], {})) for _ in range(40)]
        await asyncio.sleep(0.5)
        await writer.set_window.remote("predict", 24)
        await asyncio.sleep(3)  # with what it was told first there would be all of them
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await client.close()

    monkeypatch.setattr("orchestrator.steering.follower.OPENING", 0.1)
    scripted_server.latency = 30
    with open_writer(tmp_path) as writer:
        writer.set_window.remote("predict", 80)
        asyncio.run(ask_all())
    assert 10 <= scripted_server.max_in_flight <= 20
