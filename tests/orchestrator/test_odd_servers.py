"""Servers that send something odd now and then: all other answers are recorded, and each oddity ends as it should."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from orchestrator import secrets
from orchestrator.asking import retry
from orchestrator.asking.client import ChatClient, RequestOutcome
from orchestrator.endpoints.endpoint import Endpoint
from orchestrator.errors import EndpointDown
from tests.support import odd_replies
from tests.support.odd_replies import GOOD, TEXT, Odd
from tests.support.scripted_server import ScriptedServer, last_user_text

QUESTIONS = [f"q{number}" for number in range(12)]
ODD_ONE = QUESTIONS[7]
PAGE = b"<!DOCTYPE html><html><head><title>Attention Required! | Cloudflare</title></head><body>Sorry</body></html>"
KEY = "sk-proj-0123456789abcdefghijklmnop"

Said = tuple[int, bytes, str | None]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for reason in retry.CAP:
        monkeypatch.setitem(retry.CAP, reason, 0.005)


def error(code: Any, message: str = "oh", **more: Any) -> bytes:
    return orjson.dumps({"error": {"code": code, "message": message} | more})


def ask_all(
    say: Callable[[str], Said | None], questions: list[str] = QUESTIONS, **more: Any
) -> dict[str, RequestOutcome]:
    """Ask all questions of a server that answers as `say` tells, else with GOOD."""

    def answer(body: dict[str, Any]) -> Said:
        return say(last_user_text(body["messages"])) or (200, GOOD, None)

    async def main(url: str) -> list[RequestOutcome]:
        client = ChatClient(Endpoint(url, "scripted", **more), window=4, request_timeout=20)
        try:
            asks = [client.ask([{"role": "user", "content": question}], {}) for question in questions]
            return await asyncio.gather(*asks)
        finally:
            await client.close()

    with ScriptedServer(say=answer) as server:
        return dict(zip(questions, asyncio.run(main(server.base_url)), strict=True))


def one_is(*said: Said) -> Callable[[str], Said | None]:
    """One question gets these replies, one after the other and the last for ever, once another was answered."""
    left = list(said)
    answered: list[str] = []

    def say(question: str) -> Said | None:
        if question != ODD_ONE:
            answered.append(question)
            return None
        if not answered:
            return 408, b"later", None
        return left.pop(0) if len(left) > 1 else left[0]

    return say


@pytest.mark.parametrize(
    "odd",
    [*odd_replies.SHAPES, *odd_replies.STREAMS, *odd_replies.THOUGHTS, *odd_replies.FINISHES],
    ids=lambda odd: odd.name,
)
def test_one_odd_reply_in_twelve(odd: Odd) -> None:
    outcomes = ask_all(one_is((200, odd.body, None)))
    last = outcomes.pop(ODD_ONE)
    assert {(outcome.status, outcome.response) for outcome in outcomes.values()} == {("ok", TEXT)}
    if odd.status in ("fault", "refusal 502"):
        assert (last.status, last.reason, last.attempts >= 6) == ("failed", "5xx", True)
    else:
        assert (last.status, last.response, last.reasoning, last.reason) == odd[2:]
    assert last.status == "ok" or last.reason
    for outcome in (last, *outcomes.values()):
        record = dataclasses.asdict(outcome)
        assert orjson.loads(orjson.dumps(record)) == record | {"adapted": list(outcome.adapted)}


def test_one_odd_usage_in_twelve() -> None:
    for usage, counts in odd_replies.USAGES:
        outcomes = ask_all(one_is((200, GOOD[:-1] + b',"usage":%s}' % usage, None)))
        assert {outcome.status for outcome in outcomes.values()} == {"ok"}
        told = outcomes[ODD_ONE].usage
        assert (told and (told["prompt_tokens"], told["completion_tokens"])) == counts
        orjson.dumps([dataclasses.asdict(outcome) for outcome in outcomes.values()])


PASSING = [
    (status, error(status), None) for status in (408, 409, 423, 424, 425, 429, 498, 499, 500, 503, 520, 524, 529)
]
PASSING += [
    (403, PAGE, None),
    (400, error("rate_limit_exceeded"), None),
    (400, error(400, type="rate_limit_error"), None),
    (500, error(429), None),
    (200, error(429), None),
    (200, error("429"), None),
    (200, error("rate_limit_exceeded"), None),
    (200, error(503), None),
    (200, error(None, "upstream failed"), None),
    (200, PAGE, None),
    (204, b"", None),
    (200, b"", None),
]


@pytest.mark.parametrize("said", PASSING, ids=lambda said: f"{said[0]} {said[1][:40]!r}")
def test_what_passes_is_asked_again(said: Said) -> None:
    outcomes = ask_all(one_is(said, said, (200, GOOD, None)))
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    assert outcomes[ODD_ONE].attempts >= 3


@pytest.mark.parametrize(
    ("said", "reason", "detail"),
    [
        ((400, error(400), None), "4xx", "400 oh"),
        ((403, error(403), None), "4xx", "403 oh"),
        ((413, b"<html><title>413 Request Entity Too Large</title></html>", None), "4xx", "413 413 Request Entity"),
        ((451, error(451), None), "4xx", "451 oh"),
        ((403, PAGE, None), "5xx", "403 Attention Required! | Cloudflare"),
        ((408, error(408), None), "5xx", "408 oh"),
        ((498, error(498), None), "429", "498 oh"),
        ((200, error(400), None), "4xx", "400 oh"),
        ((200, error("403"), None), "4xx", "403 oh"),
        ((200, error(429), None), "429", "429 oh"),
        ((200, error("server_error"), None), "5xx", "500 oh"),
        ((422, orjson.dumps({"detail": [{"loc": ["body", "x"], "msg": "bad"}]}), None), "4xx", "422 body.x: bad"),
        ((400, orjson.dumps([{"error": {"code": 400, "message": "no"}}]), None), "4xx", "400 no"),
    ],
)
def test_what_lasts_fails_one_item_with_its_reason(said: Said, reason: str, detail: str) -> None:
    outcomes = ask_all(one_is(said))
    last = outcomes.pop(ODD_ONE)
    assert {outcome.status for outcome in outcomes.values()} == {"ok"}
    assert (last.status, last.reason) == ("failed", reason)
    assert (last.detail or "").startswith(detail)


STOPS = [(status, error(status, "pay first"), None) for status in (401, 402)]
STOPS += [(200, error(code, "pay first"), None) for code in ("401", 402, "insufficient_quota")]
STOPS += [(429, error("insufficient_quota", "pay first"), None)]


@pytest.mark.parametrize("said", STOPS)
def test_what_no_item_can_escape_stops_the_run(said: Said) -> None:
    with pytest.raises(EndpointDown, match=r"refuses us: 40[12] pay first"):
        ask_all(one_is(said))


def test_a_flagged_first_question_is_one_items_matter_where_it_comes_in_a_200() -> None:
    outcomes = ask_all(lambda _: (200, error(403, "flagged"), None), ["q"])
    assert (outcomes["q"].status, outcomes["q"].reason) == ("failed", "4xx")


def test_an_error_in_a_200_may_ask_everybody_to_wait() -> None:
    outcomes = ask_all(one_is((200, error(429), "1"), (200, GOOD, None)))
    assert outcomes[ODD_ONE].status == "ok"
    assert outcomes[ODD_ONE].seconds >= 0.9


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(secrets, "_traces", {})
    monkeypatch.setattr(secrets, "_handed", {})
    monkeypatch.setenv("LAB_KEY", KEY)
    return KEY


@pytest.mark.parametrize("echo", [f"Bearer {KEY}", f"{KEY[:20]}…", f"https://h/?key={KEY}&x=1", f"…{KEY[-20:]}"])
def test_a_key_that_a_server_echoes_reaches_no_record(key: str, echo: str) -> None:
    for status, body in (
        (400, error(400, f"bad {echo}")),
        (400, f"bad {echo}".encode()),
        (200, error(400, f"bad {echo}")),
    ):
        detail = ask_all(one_is((status, body, None)), key_name="LAB_KEY")[ODD_ONE].detail or ""
        assert secrets.STRUCK_OUT in detail
        assert not any(key[start : start + 12] in detail for start in range(len(key) - 11))


def test_a_key_that_a_401_echoes_reaches_no_message(key: str) -> None:
    with pytest.raises(EndpointDown, match=r"the key in LAB_KEY: 401 wrong key Bearer .key struck out.") as raised:
        ask_all(lambda _: (401, error(401, f"wrong key Bearer {key}"), None), key_name="LAB_KEY")
    assert key[:12] not in str(raised.value)
