"""From the run's writer to the requests that each stage has in flight, with a real writer and a real server."""

import asyncio
from pathlib import Path

import pytest
from scripted_server import ScriptedServer

from jobs.run import open_writer
from orchestrator.client import ChatClient
from orchestrator.endpoint import Endpoint
from orchestrator.following import Follower
from orchestrator.records import Stage


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
        Follower(writer, stage, client, share=0.5).start()
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
