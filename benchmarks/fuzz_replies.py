"""Fuzzing of all that reads a server's bytes: no exception, the right types, and a record that can be written.

Inputs are the odd bodies of the tests with one to four changes (a value of another type at any place, keys that go,
values that are wrapped, doubled or nested, bytes that flip, vanish or repeat), and arbitrary bytes. The same seed gives
the same inputs. A failing input is printed, and kept in --failures, one a file, to become a row of the tests.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from orchestrator.asking.adapting import Change, adapt  # noqa: E402
from orchestrator.asking.replies import COUNT_LIMIT, Reply, read_reply  # noqa: E402
from orchestrator.asking.retry import Fault, fault_of_refusal, parse_retry_after  # noqa: E402
from orchestrator.endpoints.refusals import Refusal, read_message, read_refusal  # noqa: E402
from tests.support.odd_replies import SEEDS  # noqa: E402

STATUSES = (400, 401, 402, 403, 404, 408, 422, 429, 498, 500, 503, 529)
WORDS = ["", "stop", "length", "error", "content", "<think>", "</think>", "analysis", "429", "400", "system role"]
WORDS += [
    "not supported 'temperature'",
    "max_tokens",
    "[1, 8]",
    "\ud83d",
    "\ufeff",
    "\u2028",
    "\x00",
    "{",
    "[{",
    "data:",
]
WORDS += ["assistantfinal", "<|channel|>final<|message|>", "9" * 400, "-1", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"]
SCALARS: list[Any] = [None, True, False, 0, 1, -1, 4, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**53]
SCALARS += [
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    10**30,
    200,
    400,
    402,
    429,
    503,
    [],
    {},
    [None],
    [[]],
    {"": ""},
]
KEYS = ["choices", "message", "content", "delta", "text", "type", "reasoning", "reasoning_content", "refusal", "error"]
KEYS += [
    "code",
    "status",
    "param",
    "metadata",
    "raw",
    "detail",
    "loc",
    "msg",
    "usage",
    "prompt_tokens",
    "finish_reason",
]
KEYS += ["completion_tokens", "total_tokens", "system_fingerprint", "index", "thinking", "summary", "object", "errors"]
BYTES = [
    b"",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"data: ",
    b"[DONE]",
    b"\n\n",
    b"[" * 2000,
    b"{",
    b"}",
    b'"',
]
BYTES += [
    b"\\ud83d",
    b"\\u0000",
    b"NaN",
    b"1e999",
    b"9" * 5000,
    b"<html>",
    b"<title>",
    b":",
    b",",
    b"null",
    b'{"a":' * 300,
]


def inputs(seed: int) -> Iterator[bytes]:
    """Bodies without end."""
    chance = random.Random(seed)
    while True:
        kind = chance.random()
        body = chance.choice(SEEDS)
        if kind < 0.85:
            body = _changed(body, chance)
        if kind > 0.8:
            body = _broken(body, chance)
        yield chance.randbytes(chance.randrange(60)) if kind > 0.97 else body


def _changed(body: bytes, chance: random.Random) -> bytes:
    """The body with other values at some places."""
    try:
        value: Any = json.loads(body)
    except ValueError:
        return body
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        value = _change(value, chance)
    return json.dumps(value, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def _change(value: Any, chance: random.Random) -> Any:
    """Walk down to a place by chance and change what is there."""
    if isinstance(value, dict) and value and chance.random() < 0.93:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {name: value[name] for name in value if name != key}
        return value | {key: _change(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.93:
        place = chance.randrange(len(value))
        return [*value[:place], _change(value[place], chance), *value[place + 1 :]]
    return _another(value, chance)


def _another(value: Any, chance: random.Random) -> Any:
    match chance.randrange(9):
        case 0:
            return [value]
        case 1:
            return {chance.choice(KEYS): value}
        case 2:
            return [value, _another(None, chance), value]
        case 3:
            return {"type": chance.choice(["text", "thinking", "refusal", "x", 7]), chance.choice(KEYS): value}
        case 4:
            return str(value) + chance.choice(WORDS)
        case 5:
            return chance.choice(WORDS)
        case 6 if isinstance(value, dict):
            return value | {chance.choice(KEYS): _another(None, chance)}
        case 7 if chance.random() < 0.05:
            for _ in range(chance.choice([20, 100, 300])):
                value = [value] if chance.random() < 0.5 else {chance.choice(KEYS): value}
            return value
    return chance.choice(SCALARS)


def _broken(body: bytes, chance: random.Random) -> bytes:
    """The body with bytes that flip, vanish, repeat or come from elsewhere."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(body) + 1)
        end = min(len(body), start + chance.choice([0, 1, 1, 2, 8, 60]))
        piece = chance.choice([b"", body[start:end] * 2, chance.choice(BYTES), chance.randbytes(2)])
        body = body[:start] + piece + body[end:]
    return body


def check(body: bytes, chance: random.Random) -> str:
    """Read a body in every way and assert what must hold; returns what it was, in a word."""
    read = read_reply(body)
    _check_result(read)
    if chance.random() < 0.1:
        assert_text(read_message(body))
    refusal = read_refusal(chance.choice(STATUSES), body, body[:40].decode(errors="replace"))
    _check_result(refusal)
    _check_result(fault_of_refusal(refusal, chance.random() < 0.5) or refusal)
    assert isinstance(parse_retry_after(refusal.retry_after or ""), float | None)
    request = {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]}],
        "max_tokens": chance.choice([9, 10**6]),
        "temperature": 0.0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    made: list[Change] = []
    while adapt(request, refusal, made):
        orjson.dumps([request, list(map(str, made))])
    return read.status if isinstance(read, Reply) else type(read).__name__


def _check_result(read: Reply | Fault | Refusal) -> None:
    orjson.dumps(read)
    if isinstance(read, Reply):
        for text in (read.detail, read.response, read.reasoning, read.finish_reason, read.system_fingerprint):
            assert_text(text)
        assert read.status in ("ok", "truncated", "failed")
        assert (read.reason is None) == (read.status == "ok")
        assert read.status != "ok" or (read.response and not read.response.isspace())
        for count in (read.usage or {}).values():
            assert type(count) is int and 0 <= count < 2 * COUNT_LIMIT
    elif isinstance(read, Refusal):
        assert_text(read.message)
        assert 400 <= read.status <= 599
        assert len(read.detail) < 1100
    else:
        assert_text(read.detail)
        assert read.reason in ("connection", "429", "5xx")


def assert_text(text: Any) -> None:
    assert text is None or isinstance(text, str), f"{text!r} is not a text"


def fuzz(number: int, seed: int) -> tuple[Counter[str], list[bytes]]:
    """Check so many inputs; returns how many were what, and the inputs that failed, each once an error."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    failures: dict[str, bytes] = {}
    for _, body in zip(range(number), inputs(seed), strict=False):
        try:
            counts[check(body, chance)] += 1
        except Exception as error:  # noqa: BLE001 - any at all is a finding
            counts[type(error).__name__] += 1
            failures.setdefault(f"{type(error).__name__}: {error}"[:80], body)
    return counts, list(failures.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, help="a folder that keeps each failing input")
    args = parser.parse_args()
    start = time.monotonic()
    counts, failures = fuzz(args.inputs, args.seed)
    print(
        f"{args.inputs} inputs from seed {args.seed} in {time.monotonic() - start:.0f} s: {dict(counts.most_common())}"
    )
    for number, body in enumerate(failures):
        print(f"failed: {body[:300]!r}")
        if args.failures:
            args.failures.mkdir(parents=True, exist_ok=True)
            (args.failures / f"{args.seed}-{number}").write_bytes(body)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
