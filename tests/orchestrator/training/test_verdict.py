"""A judge's number, in the ways in which judges write it, and what must be asked again."""

import pytest

from orchestrator.training.trainer.verdict import read_score


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("score: 1", 1),
        ("score: 0", 0),
        ("I compare.\n**score: 1**", 1),
        ("**Score:** 0.5", 0.5),
        ("**Score**: 1.", 1),
        ("Score: `1`", 1),
        ("`score: 1`", 1),
        ("- score: 0", 0),
        ("## Score: 1", 1),
        ("SCORE = .5", 0.5),
        ("score: 1.0", 1),
        ("score: 1.", 1),
        ("score: 1e0", 1),
        ("score: 5E-1", 0.5),
        ("score: +1", 1),
        ("score: -0", 0),
        ("score:1", 1),
        ("score:\n\n1", 1),
        ("score: 1\n\nThat is all: 5 of 7 lines.", 1),
        ("score: 7/10", 0.7),
        ("Score: 1/1", 1),
        ("score: **8** / **10**", 0.8),
        ("score: 7 out of 10", 0.7),
        ("score: 10/10", 1),
        ("score: 0.8/1.0", 0.8),
        ("score: ½", 0.5),
        ("score: 85%", 0.85),
        ("score: 100 %", 1),
        ("ｓｃｏｒｅ：１", 1),
        ("score： 0.5", 0.5),
        ("score: $1$", 1),
        (r"score: \boxed{1}", 1),
        (r"$\boxed{\text{score: }1}$", None),
        ('{"score": 1}', 1),
        ('{"score": 0.25, "reason": "1 of 4"}', 0.25),
        ('{"reason": "score: 1 would be too much", "score": 0}', 0),
        ('```json\n{\n  "score": "1"\n}\n```', 1),
        ("score: 1 (it says 72)", 1),
        ("score: 1, since both are 72", 1),
        ("score: 0 - they differ", 0),
        ("score: 1 point", 1),
        ("Final score: 1", 1),
        ("They agree, so score: 1", 1),
        ("score: 0\nNo, I was wrong.\nscore: 1", 1),
        ("<think>score: 1</think>\nscore: 0", 0),
        # asked again
        ("score: -1", None),
        ("score: −1", None),
        ("score: - 1", None),
        ("score: 10", None),
        ("score: 1.5", None),
        ("score: 150%", None),
        ("score: 3/2", None),
        ("score: 1/0", None),
        ("score: -1/-1", None),
        ("score: NaN", None),
        ("score: inf", None),
        ("score: 1e999", None),
        ("score: 1e400", None),
        ("underscore: 1", None),
        ("max_score: 1", None),
        ('{"max_score": 1}', None),
        ('{"score": null}', None),
        ('{"score": true}', None),
        ("Maximum score: 1", None),
        ("highscore: 1", None),
        ("score: 1 or 0", None),
        ("score: 0-1", None),
        ("score: 0 – 1", None),
        ("score: 0 to 1", None),
        ("score: 1,5", None),
        ("score: 1.0.0", None),
        ("score: 1/2/3", None),
        ("score: 1x", None),
        ("score: 1st", None),
        ("score: 1 if the response is correct", None),
        ("`score: 1` if the response is correct, `score: 0` if it is not.", None),
        ("score: 1\nscore: unclear", None),
        ("score: <number>", None),
        ("score 1", None),
        ("the score is 1", None),
        ("scores: 1", None),
        ("<think>score: 1", None),
        ("<think>score: 1</think>", None),
        ("I cannot say.", None),
        ("", None),
    ],
)
def test_the_number_or_none(reply: str, expected: float | None) -> None:
    assert read_score(reply) == expected


@pytest.mark.parametrize(
    "reply", ["score: 1" * 50_000, "score:" + " " * 200_000, "score: " + "(" * 200_000 + "1", "score: " + "9" * 200_000]
)
@pytest.mark.timeout(10)
def test_long_replies_are_read_at_once(reply: str) -> None:
    assert read_score(reply) is None
