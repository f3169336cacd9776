"""Confidences as models and judges write them."""

from typing import Any

import pytest

from jobs.tasks.answers import percent, read_answer

WRITTEN = [
    ("85%", 85),
    ("9/10", 90),
    ("8 out of 10", 80),
    ("8 of 10", 80),
    ("85/100", 85),
    ("0,9", 90),
    ("85,5 %", 86),
    ("1.0", 100),
    ("1.00", 100),
    ("1", 1),
    ("1%", 1),
    ("0.0", 0),
    ("9割", 90),
    ("９割", 90),
    ("九割", 90),
    ("8割5分", 85),
    ("5e1%", 50),
    ("90-95%", None),
    ("90–95%", None),
    ("90% - 95%", None),
    ("90 to 95%", None),
    ("90〜95%", None),
    ("between 90 and 95%", None),
    ("~85%", 85),
    (">95%", 95),
    ("≥95%", 95),
    ("about 85%", 85),
    ("approximately 85 percent", 85),
    ("約85%", 85),
    ("High (85%)", 85),
    ("very high, 85%", 85),
    ("85% (high)", 85),
    ("85 (high)", 85),
    ("{85%}", 85),
    ("[85%]", 85),
    ("`85%`", 85),
    ("**85%**", 85),
    ("\\(85\\%\\)", 85),
    ("$85\\%$", 85),
    ("\\boxed{85\\%}", 85),
    (".9", 90),
    ("九十パーセント", 90),
    ("八十五パーセント", 85),
    ("百パーセント", 100),
    ("ninety percent", 90),
    ("ninety-five percent", 95),
    ("８５％", 85),
    ("85％程度", 85),
    ("high", None),
    ("high, for 3 reasons", None),
    ("150%", 150),
    ("-5", -5),
    ("−10%", -10),
    ("90, 95", None),
    ("90..95%", None),
    ("19 in 20", 95),
]


@pytest.mark.parametrize(("text", "value"), WRITTEN)
def test_as_a_model_writes_it(text: str, value: int | None) -> None:
    assert read_answer(f"Answer: 42\nConfidence: {text}") == ("42", value)
    assert read_answer(f"**Answer:** 42\n**Confidence:** {text}\n") == ("42", value)
    assert percent(text) == value


@pytest.mark.parametrize(
    "line",
    [
        "Confidence:\n85%",
        "自信：85%",
        "確信レベル：85%",
        "自信度: 85%",
        "確信度は約：85%",
        "確信度は85%です",
        "自信度は約85%",
        "**Confidence (0-100):** 85%",
        "Confidence level: 85",
        "【確信度】85%",
        "- Confidence: 85%",
        "Confidence score - 85%",
        "## Confidence\n85%",
        "confidence = 85%",
        "**Confidence**\n\n85%",
    ],
)
def test_other_labels(line: str) -> None:
    assert read_answer(f"Answer: 42\n{line}") == ("42", 85)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("80/100", 80),
        ("8/10", 80),
        ("about 80%", 80),
        ("80 percent", 80),
        ("80パーセント", 80),
        ([80], 80),
        ({"value": 80}, 80),
        (1.0, 100),
        (0.0, 0),
        (1, 1),
        (80.0, 80),
        (["80%"], 80),
        ([], None),
        ({}, None),
        ([[80]], None),
        ([80, 90], None),
        ({"low": 80, "high": 90}, None),
        ("80" * 500, None),
        ("1e999", None),
        ("-", None),
        ("1e-400", 0),
        (False, None),
    ],
)
def test_as_a_judge_writes_it(value: Any, expected: int | None) -> None:
    assert percent(value) == expected
