"""A short run of the fuzzer of replies, and what it or anybody has found so far."""

import random

import pytest

from benchmarks.fuzz_replies import check, fuzz

FOUND: list[bytes] = [
    b'{"choices":[{"message":{"content":' + b"[" * 300 + b"4" + b"]" * 300 + b"}}]}",
    b'{"error":' + b'{"error":' * 900 + b"1" + b"}" * 901,
    b'{"choices":[{"message":{"content":"x","refusal":{"a":1}},"finish_reason":"stop"}]}',
    b'{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":1}}',
    b"[" * 200_000,
    b'"' + b"\\ud83d" * 9 + b'"',
    b"data: [DONE]\n\n" * 9,
    b"data: [\n" * 20_000,
    b"9" * 100_000,
]


@pytest.mark.parametrize("body", FOUND, ids=lambda body: repr(body[:30]))
def test_what_was_found(body: bytes) -> None:
    check(body, random.Random(0))


def test_no_body_raises() -> None:
    counts, failures = fuzz(3000, seed=1)
    assert failures == []
    assert min(counts[what] for what in ("ok", "truncated", "failed", "Fault", "Refusal")) > 20
