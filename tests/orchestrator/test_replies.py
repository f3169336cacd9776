"""What bodies say, in every shape that servers have sent so far."""

from typing import Any

import orjson
import pytest

from orchestrator import secrets
from orchestrator.asking.replies import Reply, read_reply
from orchestrator.asking.retry import Fault
from orchestrator.asking.thoughts import split_thought
from orchestrator.endpoints.refusals import Refusal, read_message, read_refusal
from orchestrator.records.types import Usage
from tests.support import odd_replies
from tests.support.odd_replies import GOOD, TEXT, Odd, completion


def answer_of(body: bytes) -> Reply:
    reply = read_reply(body)
    assert isinstance(reply, Reply)
    return reply


@pytest.mark.parametrize(
    "odd",
    [*odd_replies.SHAPES, *odd_replies.STREAMS, *odd_replies.THOUGHTS, *odd_replies.FINISHES],
    ids=lambda odd: odd.name,
)
def test_odd_shapes(odd: Odd) -> None:
    reply = read_reply(odd.body)
    if isinstance(reply, Fault):
        assert (odd.status, reply.reason) == ("fault", "5xx")
    elif isinstance(reply, Refusal):
        assert odd.status == f"refusal {reply.status}"
    else:
        assert (reply.status, reply.response, reply.reasoning, reply.reason) == odd[2:]
        assert reply.status == "ok" or reply.detail or reply.reason == "length"


@pytest.mark.parametrize(("usage", "counts"), odd_replies.USAGES)
def test_usage_is_counts_or_null(usage: bytes, counts: tuple[int, int] | None) -> None:
    reply = answer_of(GOOD[:-1] + b',"usage":%s}' % usage)
    assert (reply.status, reply.response) == ("ok", TEXT)
    expected = counts and Usage(prompt_tokens=counts[0], completion_tokens=counts[1], total_tokens=sum(counts))
    assert reply.usage == expected
    assert expected is None or {type(count) for count in (reply.usage or {}).values()} == {int}


@pytest.mark.parametrize(("error", "status"), odd_replies.ERRORS)
def test_an_error_in_a_200_has_the_status_that_it_means(error: Any, status: int | None) -> None:
    read = read_reply(orjson.dumps(error))
    if status is None:
        assert isinstance(read, Fault)
        assert (read.reason, read.detail.startswith("200 without a chat completion: ")) == ("5xx", True)
    else:
        assert isinstance(read, Refusal)
        assert (read.status, read.within) == (status, True)
        assert read.message


@pytest.mark.parametrize(
    ("status", "body", "meant"),
    [
        (400, {"error": {"code": "rate_limit_exceeded", "message": "slow"}}, 429),
        (400, {"error": {"code": 400, "type": "rate_limit_error", "message": "slow"}}, 429),
        (400, {"error": {"code": "Throttling.RateQuota", "message": "slow"}}, 429),
        (403, {"error": {"code": 403, "errors": [{"reason": "rateLimitExceeded"}], "message": "slow"}}, 403),
        (500, {"error": {"code": 429, "message": "slow"}}, 429),
        (500, {"error": {"message": "litellm.RateLimitError: Error code: 429 - slow"}}, 429),
        (429, {"error": {"code": "insufficient_quota", "type": "insufficient_quota", "message": "pay"}}, 402),
        (400, {"error": {"code": 402, "message": "pay"}}, 402),
        (400, {"error": {"code": 500, "message": "bad"}}, 400),
        (404, {"error": {"code": "model_not_found", "message": "none"}}, 404),
        (422, {"detail": "bad"}, 422),
        (400, {"error": {"message": "Too many requests, please slow down"}}, 429),
        (403, {"message": "API rate limit exceeded for user"}, 429),
        (422, {"detail": "too many requests of tools"}, 422),
        (502, {"error": {"code": 400}}, 502),
    ],
)
def test_the_body_may_say_that_a_status_means_another(status: int, body: Any, meant: int) -> None:
    assert read_refusal(status, orjson.dumps(body)).status == meant


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"error":"no"}', "no"),
        (b'{"detail":"no"}', "no"),
        (b'{"message":"no"}', "no"),
        (b'{"object":"error","message":"no","code":400}', "no"),
        (b'{"msg":"no","code":7}', "no"),
        (b'{"errors":[{"message":"no","code":7}]}', "no"),
        (b'[{"error":{"code":400,"message":"no","status":"INVALID_ARGUMENT"}}]', "no"),
        (b'{"detail":[{"loc":["body","top_k"],"msg":"extra","input":9}]}', "body.top_k: extra"),
        (b'{"message":{"detail":[{"loc":["body","n",0],"msg":"bad"}]}}', "body.n.0: bad"),
        (b'{"error":{"message":"{\\"error\\":{\\"message\\":\\"no\\"}}"}}', "no"),
        (b'{"error":{"message":"Provider returned error","metadata":{"raw":"no"}}}', "Provider returned error: no"),
        (b"no\n", "no"),
        (b"\xef\xbb\xbfno", "no"),
        (b"no\n  way", "no way"),
        (b"<!DOCTYPE html><html><head><title>Just a\nmoment...</title></head>x</html>", "Just a moment..."),
        (b"", ""),
        (b"null", "null"),
        (b"{}", "{}"),
        (b'{"a":"b"}', '{"a":"b"}'),
        (b'{"error":{"message":"bad \\udc00"}}', "bad \ufffd"),
        (b'data: {"error":{"message":"no"}}\n\n', "no"),
    ],
)
def test_sentences_of_errors(body: bytes, sentence: str) -> None:
    assert read_message(body) == sentence


def test_a_short_sentence_comes_of_a_long_one() -> None:
    assert len(read_message(b'{"error":"%s"}' % (b"no " * 10_000))) == 1000
    assert len(read_refusal(400, orjson.dumps({"error": {"message": ["x" * 400] * 9000}})).message) <= 1000


@pytest.mark.parametrize(
    ("given", "kept"), [("fp_1", "fp_1"), ("", None), (None, None), (7, None), ("f" * 999, "f" * 100)]
)
def test_the_fingerprint_that_a_server_tells(given: Any, kept: str | None) -> None:
    assert answer_of(orjson.dumps(completion(system_fingerprint=given))).system_fingerprint == kept


@pytest.mark.parametrize(
    ("refusal", "detail"), [(True, "the model refused"), ({"a": 1}, '{"a":1}'), (["No", "."], "No."), ("No.", "No.")]
)
def test_a_refusal_of_any_type_is_told_in_words(refusal: Any, detail: str) -> None:
    for content, status in ((TEXT, "ok"), (None, "failed")):
        message = {"content": content, "refusal": refusal}
        reply = answer_of(orjson.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}))
        assert (reply.status, reply.detail) == (status, detail)


def test_what_a_filter_left_stands_in_the_detail() -> None:
    reply = answer_of(orjson.dumps(completion("Half of it", "content_filter")))
    assert (reply.status, reply.response) == ("failed", None)
    assert reply.detail == "content_filter: the server withholds the answer after: Half of it"


@pytest.mark.parametrize("key", ["sk-proj-0123456789abcdefghij", "a/key+with=signs/0123456789", "8letters"])
def test_keys_that_a_server_echoes_are_struck_out(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_traces", {})
    monkeypatch.setattr(secrets, "_handed", {})
    secrets.remember({"LAB_KEY": f" {key}\n"})
    echo = f"Bearer {key}"
    fields = {"content": f"{TEXT} {echo}", "reasoning": echo, "refusal": echo}
    choice = {"message": fields, "finish_reason": echo}
    reply = answer_of(orjson.dumps({"choices": [choice], "system_fingerprint": echo}))
    assert reply.response == f"{TEXT} Bearer {secrets.STRUCK_OUT}"
    texts = [reply.reasoning, reply.detail, reply.finish_reason, reply.system_fingerprint]
    texts += [read_message(orjson.dumps({"error": {"message": f"no {echo}"}})), read_message(f"no {echo}".encode())]
    texts.append(read_message(b'{"error":"%s"}' % (("x " * 490) + echo).encode()))  # cut off within the key
    assert all(text and key[:8] not in text for text in texts)


def test_a_part_of_a_key_is_struck_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_traces", {})
    monkeypatch.setattr(secrets, "_handed", {})
    secrets.remember({"LAB_KEY": "sk-0123456789abcdefghijklmnop", "OTHER": "EMPTY", "THIRD": "p@ss/word:1"})
    struck = secrets.STRUCK_OUT
    assert secrets.strike_out("key sk-0123456789abcd**** is wrong") == f"key {struck} is wrong"
    assert secrets.strike_out("…cdefghijklmnop, wrong") == f"…c{struck}, wrong".replace("…c", "…")
    assert secrets.strike_out("http://h/?k=p%40ss%2Fword%3A1&x") == f"http://h/?k={struck}&x"
    assert secrets.strike_out("EMPTY answers stay") == "EMPTY answers stay"


@pytest.mark.parametrize(
    ("content", "thought", "answer"),
    [
        ("plain", None, "plain"),
        ("<think>\na\n</think>\n\nb", "a", "b"),
        ("a\n</think>b", "a", "b"),
        ("<think>never closed", "never closed", None),
        ("<think></think>b", None, "b"),
        ("use <think> and </think> tags", None, "use <think> and </think> tags"),
    ],
)
def test_split_thought(content: str, thought: str | None, answer: str | None) -> None:
    assert split_thought(content) == (thought, answer)


def test_older_name_of_the_thought_and_the_shapes_of_errors() -> None:
    body = b'{"choices":[{"message":{"content":"a","reasoning_content":"t"},"finish_reason":"stop"}],"usage":null}'
    reply = read_reply(body)
    assert isinstance(reply, Reply)
    assert (reply.response, reply.reasoning, reply.usage) == ("a", "t", None)
    aborted = read_reply(body.replace(b'"stop"', b'"abort"'))
    assert isinstance(aborted, Fault)
    assert aborted.reason == "5xx"
    shapes = [b'{"error":{"message":"no"}}', b'{"error":"no"}', b'{"detail":"no"}', b'{"message":"no"}', b"no\n"]
    assert {read_message(shape) for shape in shapes} == {"no"}


def test_half_an_emoji_in_an_answer_is_replaced() -> None:
    body = b'{"choices":[{"message":{"content":"a \\ud83d b \\ud83d\\ude00 \\\\ud83d"},"finish_reason":"stop"}]}'
    reply = read_reply(body)
    assert isinstance(reply, Reply)
    assert (reply.status, reply.response) == ("ok", "a \ufffd b \U0001f600 \\ud83d")
    assert orjson.loads(orjson.dumps(reply.response)) == reply.response
    assert read_message(b'{"error":{"message":"bad \\udc00"}}') == "bad \ufffd"


def test_a_body_of_brackets_is_a_fault_of_the_server() -> None:
    assert isinstance(read_reply(b"[" * 200_000), Fault)


@pytest.mark.parametrize("message", [b"null", b"7", b"true", b"[]"])
def test_malformed_messages_are_faults_of_the_server(message: bytes) -> None:
    assert isinstance(read_reply(b'{"choices":[{"message":%s,"finish_reason":"stop"}]}' % message), Fault)


def test_answer_in_parts() -> None:
    reply = read_reply(b'{"choices":[{"message":{"content":[{"type":"text","text":"a"},{"text":"b"}]}}]}')
    assert isinstance(reply, Reply)
    assert (reply.status, reply.response) == ("ok", "ab")
