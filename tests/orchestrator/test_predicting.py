"""The prediction stage through Ray Data, at a server whose answers take very different times."""

from datetime import datetime
from pathlib import Path

import pytest

from jobs.benchmarking.parts.serving import question
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.records.writer_client import call, open_writer
from orchestrator.stages.predict import PredictConfig, predict
from orchestrator.stages.stage import Pick, RowStore, configure_ray_data
from tests.support.harness import records
from tests.support.scripted_server import ScriptedServer

WINDOW, ROWS = 16, 480


@pytest.mark.usefixtures("connected")
def test_long_answers_leave_no_slot_empty(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    """One of 16 answers takes 15 times as long as the others: eight times the mean."""
    configure_ray_data()
    scripted_server.latency = 0.1
    texts = [f"[slow:1.4] q{number}" if number % 16 == 0 else f"q{number}" for number in range(ROWS)]
    rows = [{"id": text, "messages": [{"role": "user", "content": text}]} for text in texts]
    with open_writer(tmp_path) as writer:
        call(writer.plan, [question(row).wanted for row in rows])
        endpoint = Endpoint(scripted_server.base_url, "scripted")
        config = PredictConfig(
            writer=writer,
            build=question,
            endpoint=endpoint,
            options={},
            request_timeout=20,
            start=WINDOW,
            most=WINDOW,
        )
        assert predict(config, RowStore(rows), [Pick(place, 0) for place in range(ROWS)]) == ROWS
    answers = records(tmp_path / "predictions.jsonl")
    assert {answer["status"] for answer in answers} == {"ok"} and len(answers) == ROWS
    starts = [datetime.fromisoformat(answer["started_at"]).timestamp() for answer in answers]
    spans = [(start, start + answer["seconds"]) for start, answer in zip(starts, answers, strict=True)]
    begin, end = min(starts), max(starts)  # afterwards nothing is left to fill the slots with
    in_flight = sum(min(stop, end) - start for start, stop in spans) / (end - begin)
    assert in_flight > 0.9 * WINDOW
