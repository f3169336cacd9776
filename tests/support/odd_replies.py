"""Bodies of a 200 as servers really send them, and what they say. The fuzzer starts from them too."""

from typing import Any, NamedTuple

import orjson

TEXT = "Explanation: 2 + 2.\nAnswer: 4\nConfidence: 80%"


class Odd(NamedTuple):
    """A body and the parts of its reply; `answer` None where no answer may come of it."""

    name: str
    body: bytes
    status: str = "ok"
    answer: str | None = TEXT
    thought: str | None = None
    reason: str | None = None


def completion(content: Any = TEXT, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}]
    } | more


def _message(**message: Any) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def _content(content: Any) -> bytes:
    return orjson.dumps(completion(content))


def _finish(finish: Any, content: Any = TEXT) -> bytes:
    return orjson.dumps(completion(content, finish))


def _choices(*choices: Any) -> bytes:
    return orjson.dumps({"choices": list(choices)})


def _stream(*chunks: Any, end: str = "data: [DONE]\n\n", between: str = "\n\n") -> bytes:
    return ("".join(f"data: {orjson.dumps(chunk).decode()}{between}" for chunk in chunks) + end).encode()


def _delta(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


GOOD = orjson.dumps(completion())
OTHER = {"index": 1, "message": {"content": "Answer: 5"}, "finish_reason": "stop"}
FIRST = {"index": 0, "message": {"content": TEXT}, "finish_reason": "stop"}
DELTAS = [_delta(role="assistant"), *[_delta(content=word) for word in TEXT.partition(" ")], _delta("stop")]

SHAPES = [
    Odd("a part alone", _content(_part(TEXT))),
    Odd("a part whose text is wrapped", _content([{"type": "text", "text": {"value": TEXT, "annotations": []}}])),
    Odd("output_text", _content([{"type": "output_text", "text": TEXT}])),
    Odd("a list of texts", _content(["Explanation: 2 + 2.\n", "Answer: 4\nConfidence: 80%"])),
    Odd("a list with null", _content([None, _part(TEXT), None])),
    Odd("a list with a picture", _content([{"type": "image_url", "image_url": {"url": "x"}}, _part(TEXT)])),
    Odd("a part without a type", _content([{"text": TEXT}])),
    Odd("an empty list", _content([]), "failed", None, reason="empty"),
    Odd("a number", _content(4), answer="4"),
    Odd("a fraction", _content(0.5), answer="0.5"),
    Odd("zero", _content(0), answer="0"),
    Odd("a truth value", _content(True), answer="true"),
    Odd("an object", _content({"answer": "4", "confidence": 80}), answer='{"answer":"4","confidence":80}'),
    Odd("a list of objects", _content([{"answer": 4}]), answer='[{"answer":4}]'),
    Odd("Gemini's parts", _content({"parts": [{"text": TEXT}]})),
    Odd("a content in a content", _content({"content": TEXT})),
    Odd("a message called messages", _choices({"messages": [{"content": TEXT}], "finish_reason": "stop"})),
    *(Odd(f"wrapped as {name}", orjson.dumps({name: completion()})) for name in ("result", "response", "data")),
    Odd("Ollama's own", orjson.dumps({"message": {"content": TEXT}, "done": True, "done_reason": "stop"})),
    Odd("an error with code 0", orjson.dumps(completion(error={"code": "0", "message": "success"}))),
    Odd("a text of a choice", _choices({"text": TEXT, "finish_reason": "stop"})),
    Odd("a text beside a message of null", _choices({"text": TEXT, "message": None, "finish_reason": "stop"})),
    Odd("a message that is a text", _choices({"message": TEXT, "finish_reason": "stop"})),
    Odd("a message in a list", _choices({"message": [{"content": TEXT}], "finish_reason": "stop"})),
    Odd("a delta that is no stream", _choices({"delta": {"content": TEXT}, "finish_reason": "stop"})),
    Odd("choices that are one", orjson.dumps({"choices": FIRST})),
    Odd("choices in the wrong order", _choices(OTHER, FIRST)),
    Odd("choices with null", _choices(None, FIRST)),
    Odd("an index as text", _choices(OTHER, FIRST | {"index": "0"})),
    Odd("choices without an index", _choices({"message": {"content": TEXT}}, {"message": {"content": "Answer: 5"}})),
    Odd("a list around it", b"[%s]" % GOOD),
    Odd("JSON in a JSON text", orjson.dumps(GOOD.decode())),
    Odd("a byte order mark", b"\xef\xbb\xbf" + GOOD),
    Odd("UTF-16", GOOD.decode().encode("utf-16")),
    Odd("blanks before it, to keep the connection", b"\n \r\n" * 50 + GOOD),
    Odd("a raw line break in a text", GOOD.replace(b"\\n", b"\n")),
    Odd("NaN beside it", GOOD[:-1] + b',"score":NaN,"usage":{"prompt_tokens":Infinity}}'),
    Odd(
        "a number above all floats",
        GOOD[:-1] + b',"usage":{"prompt_tokens":1e400,"completion_tokens":%s}}' % (b"9" * 400),
    ),
    Odd("an error of null", orjson.dumps(completion(error=None))),
    Odd("an empty error", orjson.dumps(completion(error={"code": None, "message": ""}))),
    Odd("an error that is none", orjson.dumps(completion(error={"code": 200, "message": "success"}))),
    Odd("no finish reason", _finish(None)),
    Odd("a finish reason of another type", _finish(7)),
    Odd("odd neighbours", orjson.dumps(completion(system_fingerprint={"a": 1}, model=None, created="x", id=[]))),
    Odd("refusal null", _message(content=TEXT, refusal=None)),
    Odd("refusal true beside an answer", _message(content=TEXT, refusal=True)),
    Odd("refusal an object beside an answer", _message(content=TEXT, refusal={"a": 1})),
    Odd("refusal true", _message(content=None, refusal=True), "failed", None, reason="empty"),
    Odd("refusal a text", _message(content=None, refusal="I cannot"), "failed", None, reason="empty"),
    Odd("a part that refuses", _content([{"type": "refusal", "refusal": "No."}]), "failed", None, reason="empty"),
    Odd("tool calls", _message(content=None, tool_calls=[{"id": "1"}]), "failed", None, reason="empty"),
]

STREAMS = [
    Odd("a stream", _stream(*DELTAS)),
    Odd("a stream with other line ends", _stream(*DELTAS, between="\r\n\r\n")),
    Odd("a stream without blank lines", _stream(*DELTAS, between="\n")),
    Odd("a stream with comments", b": PROCESSING\n\nevent: message\nid: 1\n" + _stream(*DELTAS)),
    Odd("a stream that ends with its reason", _stream(*DELTAS, end="")),
    Odd("a stream that ends with its mark", _stream(*DELTAS[:-1])),
    Odd("lines of JSON", b"\n".join(map(orjson.dumps, DELTAS))),
    Odd("a stream of one whole message", _stream(completion())),
    Odd("a stream with a thought", _stream(_delta(reasoning="h"), _delta(reasoning="m"), *DELTAS), thought="hm"),
    Odd("a stream of two choices", _stream({"choices": [OTHER | {"delta": {"content": "x"}}]}, *DELTAS)),
    Odd("a stream that was cut off", _stream(*DELTAS[:-1], end=""), "fault"),
    Odd("a stream with a broken piece", _stream(*DELTAS[:-1], end='data: {"choi\n\ndata: [DONE]\n\n'), "fault"),
    Odd("a stream that ends at the budget", _stream(*DELTAS[:-1], _delta("length")), "truncated", reason="length"),
    Odd("an error in a stream", _stream(*DELTAS[:2], {"error": {"code": 502, "message": "upstream"}}), "refusal 502"),
]

THOUGHTS = [
    Odd("an older name", _message(content=TEXT, reasoning_content="hm"), thought="hm"),
    Odd("details", _message(content=TEXT, reasoning_details=[{"type": "reasoning.text", "text": "hm"}]), thought="hm"),
    Odd("an object", _message(content=TEXT, reasoning={"content": "hm", "tokens": 3}), thought="hm"),
    Odd("a list", _message(content=TEXT, reasoning=["h", "m"]), thought="hm"),
    Odd("Mistral", _content([{"type": "thinking", "thinking": [_part("hm")]}, _part(TEXT)]), thought="hm"),
    Odd("Anthropic", _content([{"type": "thinking", "thinking": "hm", "signature": "x"}, _part(TEXT)]), thought="hm"),
    Odd("redacted", _content([{"type": "redacted_thinking", "data": "x"}, _part(TEXT)])),
    Odd("a part that reasons", _content([{"type": "reasoning", "reasoning": "hm"}, _part(TEXT)]), thought="hm"),
    Odd("left in the text", _content(f"<think>hm</think>{TEXT}"), thought="hm"),
    Odd("left in a part", _content([_part("<think>hm</think>"), _part(TEXT)]), thought="hm"),
    Odd("in both places", _message(content=f"<think>more</think>{TEXT}", reasoning="hm"), thought="hm\n\nmore"),
    Odd("twice the same", _message(content=f"<think>hm</think>{TEXT}", reasoning="hm"), thought="hm"),
    Odd("all in the thought", _message(content=None, reasoning=TEXT), "failed", None, TEXT, "empty"),
    Odd(
        "an object cut off",
        orjson.dumps(
            {"choices": [{"message": {"content": None, "reasoning": {"text": "hm"}}, "finish_reason": "length"}]}
        ),
        "truncated",
        None,
        "hm",
        "length",
    ),
]

_LENGTHS = ["length", "LENGTH", "MAX_TOKENS", "max_tokens", "max_output_tokens", "model_length", "max_length"]
_LENGTHS += [
    "FinishReason.MAX_TOKENS",
    "max_new_tokens",
    "max_completion_tokens",
    "token_limit",
    "output_limit",
    "ERROR_LIMIT",
    "tokens_limit_reached",
]
_FILTERS = ["content_filter", "CONTENT_FILTER", "SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII"]
_FILTERS += [
    "ERROR_TOXIC",
    "LANGUAGE",
    "sensitive",
    "refusal",
    "guardrail_intervened",
    "content_filtered",
    "policy_violation",
]
_BREAKS = ["network_error", "insufficient_system_resource", "cancelled", "canceled", "aborted", "abort", "timeout"]
_BREAKS += [
    "error",
    "ERROR",
    "timed_out",
    "time_limit",
    "internal_error",
    "engine_overloaded",
    "interrupted",
    "failed",
    "disconnected",
    "preempted",
]

FINISHES = [
    *(Odd(f"{name} with text", _finish(name), "truncated", reason="length") for name in _LENGTHS),
    *(Odd(f"{name} without text", _finish(name, None), "truncated", None, reason="length") for name in _LENGTHS),
    Odd("an object that says length", _finish({"type": "length", "length": 9}), "truncated", reason="length"),
    *(Odd(f"{name} with text", _finish(name), "failed", None, reason="4xx") for name in _FILTERS),
    *(Odd(f"{name} without text", _finish(name, None), "failed", None, reason="4xx") for name in _FILTERS),
    *(Odd(name, _finish(name), "fault") for name in _BREAKS),
    Odd("an object that says abort", _finish({"type": "abort", "message": "x"}), "fault"),
    *(Odd(name, _finish(name)) for name in ("stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "OTHER")),
]

USAGES: list[tuple[bytes, tuple[int, int] | None]] = [
    (b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}', (10, 5)),
    (b'{"prompt_tokens":"10","completion_tokens":"5"}', (10, 5)),
    (b'{"prompt_tokens":10.0,"completion_tokens":5.0}', (10, 5)),
    (b'{"input_tokens":10,"output_tokens":5}', (10, 5)),
    (b'{"prompt_tokens":10,"total_tokens":15}', (10, 5)),
    (b'{"promptTokenCount":10,"candidatesTokenCount":5}', (10, 5)),
    (b'{"prompt_eval_count":10,"eval_count":5}', (10, 5)),
    (b'{"promptTokens":10,"totalTokens":15}', (10, 5)),
    (b'{"prompt_tokens":"10.0","completion_tokens":5}', (10, 5)),
    (b'{"completion_tokens":5,"total_tokens":15}', (10, 5)),
    (b'{"prompt_tokens":0,"completion_tokens":0}', (0, 0)),
    (b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":99,"x":{}}', (10, 5)),
    (b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":null}', (10, 5)),
    (b'{"prompt_tokens":null,"input_tokens":10,"output_tokens":5}', (10, 5)),
    *(
        (value, None)
        for value in (
            b'{"prompt_tokens":10}',
            b'{"total_tokens":15}',
            b'{"prompt_tokens":20,"total_tokens":15}',
            b'[{"prompt_tokens":10,"completion_tokens":5}]',
            b'"15"',
            b"true",
            b"15",
            b"null",
            b"{}",
            b'{"prompt_tokens":{"total":10}}',
            b'{"prompt_tokens":{"total":10},"completion_tokens":5}',
            b'{"prompt_tokens":NaN}',
            b'{"prompt_tokens":NaN,"completion_tokens":5}',
            b'{"prompt_tokens":Infinity,"completion_tokens":5}',
            b'{"prompt_tokens":10.0,"completion_tokens":5.5}',
            b'{"prompt_tokens":-1,"completion_tokens":5}',
            b'{"prompt_tokens":true,"completion_tokens":false}',
            b'{"prompt_tokens":[10],"completion_tokens":[5]}',
            b'{"prompt_tokens":"ten","completion_tokens":"five"}',
            b'{"prompt_tokens":"","completion_tokens":5}',
            '{"prompt_tokens":"１０","completion_tokens":"²"}'.encode(),
            b'{"prompt_tokens":18446744073709551615,"completion_tokens":5}',
            b'{"prompt_tokens":18446744073709551616,"completion_tokens":5}',
            b'{"prompt_tokens":9223372036854775807,"completion_tokens":9223372036854775807}',
            b'{"prompt_tokens":1e300,"completion_tokens":5}',
            b'{"prompt_tokens":1e400,"completion_tokens":5}',
            b'{"prompt_tokens":%s,"completion_tokens":5}' % (b"9" * 5000),
        )
    ),
]

# Errors in a 200 and the status that they mean; None where they tell none.
ERRORS: list[tuple[Any, int | None]] = [
    ({"error": {"code": 429, "message": "slow"}}, 429),
    ({"error": {"code": "429", "message": "slow"}}, 429),
    ({"error": {"code": "rate_limit_exceeded", "message": "slow"}}, 429),
    ({"error": {"type": "rate_limit_error", "message": "slow"}, "type": "error"}, 429),
    ({"error": {"status": "RESOURCE_EXHAUSTED", "message": "slow"}}, 429),
    ({"error": {"code": None, "message": "Rate limit exceeded: free-models-per-min"}}, 429),
    ({"error": {"message": "Error code: 429 - {'error': 'slow'}"}}, 429),
    ({"error": "429 Too Many Requests"}, 429),
    ({"error": "Too many requests"}, 429),
    ({"error": True, "message": "Too many requests"}, 429),
    ({"error_code": 429, "error_msg": "qps"}, 429),
    ({"errorCode": 429, "errorMessage": "slow"}, 429),
    ({"result": completion(), "error": {"code": 429, "message": "slow"}}, 429),
    ({"code": 429, "message": "slow", "success": False}, 429),
    ({"object": "error", "code": 429, "message": "slow"}, 429),
    ({"choices": [], "error": {"code": 429, "message": "slow"}}, 429),
    ({"choices": [{"error": {"code": 429, "message": "slow"}, "message": {"content": ""}}]}, 429),
    ({"choices": [FIRST | {"error": {"code": 502, "message": "upstream"}, "finish_reason": "error"}]}, 502),
    ([{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}], 429),
    ({"error": {"code": 400, "message": "bad"}}, 400),
    ({"error": {"code": "400", "message": "bad"}}, 400),
    ({"error": {"type": "invalid_request_error", "message": "bad"}}, 400),
    ({"error": {"code": "context_length_exceeded", "message": "bad"}}, 400),
    ({"object": "error", "code": 400, "message": "bad", "type": "BadRequestError"}, 400),
    ({"error": {"code": 402, "message": "pay"}}, 402),
    ({"error": {"code": "insufficient_quota", "message": "pay"}}, 402),
    ({"error": {"type": "insufficient_balance", "message": "pay"}}, 402),
    ({"error": {"code": 403, "message": "flagged"}}, 403),
    ({"error": {"code": 500, "message": "oh"}}, 500),
    ({"error": {"code": "server_error", "message": "oh"}}, 500),
    ({"error": {"type": "overloaded_error", "message": "Overloaded"}}, 503),
    ({"error": {"code": "503", "message": "oh"}}, 503),
    ({"error": {"message": '{"error":{"code":429,"message":"slow"}}'}}, 429),
    ({"error": {"message": "upstream failed"}}, None),
    ({"error": {"code": 1302, "message": "oh"}}, None),
    ({"error": {"code": 4_000_000_000_000_000_000, "message": "oh"}}, None),
    ({"error": True}, None),
    ({"error": ["a", {"b": 1}]}, None),
    ({"detail": "oh"}, None),
    ({"choices": []}, None),
    ({"choices": None}, None),
    ({"choices": "x"}, None),
    ({}, None),
    ([], None),
    ([1, 2], None),
    (None, None),
    ("oh", None),
    (7, None),
]

SEEDS = [odd.body for odd in (*SHAPES, *STREAMS, *THOUGHTS, *FINISHES)]
SEEDS += [GOOD[:-1] + b',"usage":%s}' % usage for usage, _ in USAGES] + [orjson.dumps(error) for error, _ in ERRORS]
