"""The trial verdict: what a judge may reply, and what ends a run before any GPU works for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from jobs.exam import judging
from jobs.exam.judging import AskedJudge, preflight
from jobs.exam.spec import ExamSpec
from orchestrator import secrets
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import JudgeUnavailable
from orchestrator.spec import load_spec
from tests.support.scripted_server import ScriptedServer, completion, error

YES = '{"extracted_final_answer": "4", "reasoning": "same", "correct": "yes", "confidence": 90, "strict": true}'
KEY = "sk-proj-0123456789abcdefghijklmnop"
CUT = ({"content": YES[:20]}, "length")
NO_SCHEMA = "response_format of type json_schema is not supported"
Reply = tuple[dict[str, Any], str] | str | int  # message and finish reason, text, or the status of an error


class Judge(ScriptedServer):
    """Gives `replies` in their order, and the last one again and again."""

    def __init__(self, *replies: Reply, **options: Any) -> None:
        super().__init__(**options)
        self.replies = list(replies)
        self.bodies: list[dict[str, Any]] = []

    def _reply(self, markers: str, body: dict[str, Any]) -> web.Response:
        self.bodies.append(body)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, int):
            return error(reply, NO_SCHEMA)
        message, finish = ({"content": reply}, "stop") if isinstance(reply, str) else reply
        return web.json_response(completion(self.model, "", message, finish))

    def try_out(self, key: str | None = None) -> AskedJudge:
        spec = load_spec(ExamSpec, None, ["model=m", "judge=j", f"judge_base_url={self.base_url}"])
        return preflight(spec, Endpoint(self.base_url, self.model, key))


@pytest.mark.parametrize(
    ("replies", "asks"),
    [
        ([YES], 1),
        (["```json\n" + YES + "\n```"], 1),
        (["Let me see.", YES], 2),
        (["", "Hm.", "correct: yes"], 3),
        ([CUT, YES], 2),
        ([400, YES], 2),
        ([422, "Hm.", YES], 3),
        ([({"content": None, "reasoning": YES}, "stop")], 1),
        ([({"content": "", "reasoning_content": "It is right.\ncorrect: yes"}, "stop")], 1),
        ([({"content": YES, "reasoning": "The set {1} is not it. Or is it?"}, "stop")], 1),
    ],
)
def test_a_judge_that_can_be_read(replies: list[Reply], asks: int) -> None:
    with Judge(*replies) as judge:
        asked = judge.try_out()
    assert len(judge.bodies) == asks
    assert asked.endpoint.model == "scripted"
    assert ("response_format" in judge.bodies[-1]) == (replies[0] not in (400, 422))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("response_format", NO_SCHEMA),
        ("response_format", "json_schema: Extra inputs are not permitted"),
        ("response_format", "Bad Request"),
        ("temperature", "Unsupported value: 'temperature' does not support 0.0 with this model."),
    ],
)
def test_what_a_judge_refuses_is_left_out_from_then_on(
    option: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(judging, "say", said.append)
    refused = json.dumps({"error": {"message": message}}).encode()
    with Judge(YES, say=lambda body: (400, refused, None) if option in body else None) as judge:
        asked = judge.try_out()
    assert judge.requests()["total"] == 2
    assert option not in asked.options and asked.adapted == (f"{option} dropped",)
    told = "judge=j does not take a JSON schema: its verdicts are read from its text"
    assert said == ([told] if option == "response_format" else [])


@pytest.mark.parametrize("reply", [f"I know {KEY}", (400, f"I know {KEY}"), f"{'w' * 190} {KEY}"])
def test_a_key_that_a_judge_repeats_is_not_shown(reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_traces", {})
    monkeypatch.setenv("LAB_KEY", KEY)
    refused = (400, json.dumps({"error": {"message": reply[1]}}).encode(), None) if isinstance(reply, tuple) else None
    with Judge(reply, say=lambda _: refused) as judge, pytest.raises(JudgeUnavailable) as caught:
        judge.try_out("LAB_KEY")
    assert not any(KEY[start : start + 12] in str(caught.value) for start in range(len(KEY) - 11))


def test_a_reply_that_was_cut_off_gets_twice_the_budget() -> None:
    with Judge(CUT, CUT, YES) as judge:
        judge.try_out()
    assert [body["max_tokens"] for body in judge.bodies] == [4096, 8192, 16384]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("I think that it is right.", "cannot be read as a verdict ('I think that it is right.')"),
        ('The response says {"correct": "yes"}.\ncorrect: no', "cannot be read as a verdict"),
        ("word " * 1000, "cannot be read as a verdict ('word word"),
        (CUT, "was cut off"),
        (({"content": None}, "stop"), "no text"),
        (400, NO_SCHEMA),
        (401, "401"),
        (404, "404"),
    ],
)
def test_a_judge_that_cannot_be_read_ends_the_run(reply: Reply, expected: str) -> None:
    with Judge(reply) as judge, pytest.raises(JudgeUnavailable) as caught:
        judge.try_out()
    message = str(caught.value)
    assert expected in message and message.startswith("judge=j gives no verdict at http")
    assert "judge=rule" in message and "\n" not in message and len(message) < 800


def test_a_judge_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PREFLIGHT_PATIENCE", 1.0)
    with Judge(YES) as judge:
        pass
    with pytest.raises(JudgeUnavailable, match="judge=j gives no verdict at http"):
        judge.try_out()


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    with Judge(YES) as judge, pytest.raises(JudgeUnavailable, match="NO_SUCH_KEY is not set"):
        judge.try_out("NO_SUCH_KEY")
    assert not judge.bodies


def test_a_judge_that_calls_it_wrong_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(judging, "say", said.append)
    with Judge(json.dumps({"correct": "no", "reasoning": "2 + 2 is 5"})) as judge:
        judge.try_out()
    assert len(said) == 1 and "2 + 2 is 5" in said[0]


def test_a_judge_that_is_cut_off_behind_its_verdict_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(judging, "say", said.append)
    with Judge(({"content": '{"reasoning": "", "correct": "yes", "confidence": 77777777'}, "length")) as judge:
        judge.try_out()
    assert len(said) == 1 and "behind its verdict" in said[0]


def test_a_judge_that_keeps_us_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PREFLIGHT_LIMIT", 0.5)
    with Judge(YES, latency=5) as judge, pytest.raises(JudgeUnavailable, match="none within"):
        judge.try_out()
