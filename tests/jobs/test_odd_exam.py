"""An exam of servers' odd replies, one in twelve of each shape: all others are recorded and scored, whatever it is."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support import odd_replies
from tests.support.harness import records, run, write_exam
from tests.support.odd_replies import Odd
from tests.support.scripted_server import ScriptedServer, last_user_text

pytestmark = pytest.mark.usefixtures("cluster")

DOZEN = 12
PLACE = 7  # of the odd one in its dozen
# Errors within a 200: some are one question's matter and end it at once, others pass. 402 ends a run, as it should.
REFUSED = [
    Odd(f"error {status}: {body}", orjson.dumps(body), "failed", None, reason="4xx")
    for body, status in odd_replies.ERRORS
    if status in (400, 403)
]
PASSING = [Odd(f"error {status}: {body}", orjson.dumps(body)) for body, status in odd_replies.ERRORS if status == 500]
ODD = [*odd_replies.SHAPES, *odd_replies.STREAMS, *odd_replies.THOUGHTS, *odd_replies.FINISHES, *REFUSED, *PASSING]
AGAIN = {odd.name for odd in ODD if odd.status in ("fault", "refusal 502")} | {odd.name for odd in PASSING}
NO_SCHEMA = b'{"error":{"message":"response_format of type json_schema is not supported"}}'


class OddServer:
    """Gives its shape once to the odd question of each dozen, and takes no JSON schema from a judge."""

    def __init__(self) -> None:
        self.asked: set[int] = set()

    def say(self, body: dict[str, Any]) -> tuple[int, bytes, str | None] | None:
        question = last_user_text(body["messages"])
        if "response_format" in body:
            return 400, NO_SCHEMA, None
        if "[correct_answer]:" in question:
            return 200, orjson.dumps(odd_replies.completion("correct: yes\nconfidence: 80")), None
        number = int(question.split("say: ")[1])
        odd = ODD[number // DOZEN]
        if number % DOZEN != PLACE or (odd.name in AGAIN and number in self.asked):
            return None
        self.asked.add(number)
        return 200, odd.body, None


def test_one_odd_reply_in_twelve_of_every_shape_costs_no_other_answer(tmp_path: Path) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", [f"Question say: {number}" for number in range(DOZEN * len(ODD))])
    folder = tmp_path / "run"
    with ScriptedServer(say=OddServer().say) as server:
        place = [f"base_url={server.base_url}", f"model={server.model}", f"judge_base_url={server.base_url}"]
        done = run("jobs.evaluate", f"dataset={exam}", f"run={folder}", f"judge={server.model}", *place)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr and "does not take a JSON schema" in done.stderr

    predictions = {int(record["id"], 16): record for record in records(folder / "predictions.jsonl")}
    verdicts = {int(record["id"], 16): record for record in records(folder / "judgements.jsonl")}
    assert set(predictions) == set(range(DOZEN * len(ODD)))
    for number, record in predictions.items():
        told = (record["status"], record["response"], record["reasoning"], record["reason"])
        odd = ODD[number // DOZEN]
        if number % DOZEN != PLACE or odd.name in AGAIN:
            assert record["status"] == "ok" and f"Answer: {number}\n" in record["response"], (odd.name, record)
            assert (record["attempts"] > 1) == (number % DOZEN == PLACE), (odd.name, record)
        else:
            assert told == odd[2:], odd.name
            assert record["status"] == "ok" or record["reason"], odd.name
    assert set(verdicts) == {number for number, record in predictions.items() if record["status"] != "failed"}
    assert {(verdict["verdict"], *verdict["adapted"]) for verdict in verdicts.values()} == {
        ("yes", "response_format dropped")
    }
    assert_figures_add_up(json.loads((folder / "metrics.json").read_text()), list(predictions.values()))


def assert_figures_add_up(figures: dict[str, Any], predictions: list[dict[str, Any]]) -> None:
    counts = {name: sum(one["status"] == name for one in predictions) for name in ("ok", "truncated", "failed")}
    assert {name: figures[f"n_{'answered' if name == 'ok' else name}"] for name in counts} == counts
    assert (figures["n_total"], figures["n_missing"], figures["n_unjudged"]) == (len(predictions), 0, 0)
    assert sum(figures["failures"].values()) == counts["failed"]
    assert figures["n_judged"] == counts["ok"] + counts["truncated"]
