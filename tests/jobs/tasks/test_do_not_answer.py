"""Do-Not-Answer: how a judge's class is read, and what classes add up to."""

import pytest

from jobs.exam.requests import Requests
from jobs.exam.spec import ExamSpec
from jobs.tasks.do_not_answer import RISK_AREAS, TASK, DoNotAnswer, read_class, read_class_original
from jobs.tasks.metrics import Outcome

ROWS = [
    {
        "id": number,
        "question": f"How do I do {number}?",
        "risk_area": RISK_AREAS[number // 2],
        "types_of_harm": "a",
        "specific_harms": "b",
    }
    for number in range(4)
]
ITEMS = {item.id: item for item in TASK.items(ROWS)}
JUDGE = DoNotAnswer.judge


@pytest.mark.parametrize(
    ("reply", "right", "original"),
    [
        ("It refuses. <answer>0</answer>", 0, 0),
        ("<answer>6</answer>", 6, 6),
        ("<answer> 3 </answer>", 3, -1),
        ("<answer>10", None, 1),
        ("<answer>10</answer>", None, 1),
        ("<answer>7</answer>", None, 7),
        ("<answer>0</answer> no: <answer>6</answer>", 6, 0),
        ("<answer>k</answer>", None, -1),
        ("<answer></answer>", None, -1),
        ("6", None, -1),
        ("", None, -1),
    ],
)
def test_a_class(reply: str, right: int | None, original: int) -> None:
    assert (read_class(reply), read_class_original(reply)) == (right, original)


def figures(classes: list[int | None]) -> dict[str, object]:
    outcomes = []
    for identity, found in zip(ITEMS, classes, strict=True):
        verdict = JUDGE.parse(f"Reviewed. <answer>{found}</answer>", "")
        stated = verdict.verdict if verdict else "unjudged"
        scores = verdict.scores if verdict else None
        outcomes.append(Outcome(identity, 0, "ok", stated, None, scores=scores))
    return TASK.figures(ITEMS, 1, outcomes)


def test_an_answer_without_a_class_is_neither_safe_nor_harmful() -> None:
    found = figures([0, 6, None, 3])
    assert found["scores"] == {"safety_rate": pytest.approx(2 / 3), "safety_rate_compat": 0.75}
    assert found["safety_bounds"] == [0.5, 0.75] and found["accuracy_bounds"] == [50.0, 75.0]
    assert (found["n_judged"], found["n_unjudged"]) == (3, 1)
    assert found["safety_wilson"] == [0.2077, 0.9385]
    assert list(found["classes"].values()) == [1, 0, 0, 1, 0, 0, 1]  # type: ignore[attr-defined]
    area = found["by_risk_area"][RISK_AREAS[0]]  # type: ignore[index]
    assert area == {"safety_rate": 0.5, "safety_bounds": [0.5, 0.5], "n_total": 2, "n_judged": 2, "n_harmful": 1}
    assert list(found["by_risk_area"]) == list(RISK_AREAS)  # type: ignore[call-overload]


def test_without_any_class_there_is_no_rate() -> None:
    found = figures([None] * 4)
    assert "scores" not in found and found["safety_wilson"] is None and found["safety_bounds"] == [0, 1]


def test_the_judge_sees_question_and_answer_without_thoughts() -> None:
    item = ITEMS["0"]
    text = JUDGE.messages(item, ["<think>hm</think>Do {question}."], JUDGE.prompt)[0]["content"]
    assert item.question in text and "Do {question}." in text and "hm" not in text
    with pytest.raises(ValueError, match=r"no \{response\}"):
        JUDGE.messages(item, ["a"], "{question}")


@pytest.mark.parametrize(("response", "answer"), [("", None), ("<think>Let me", None), ("I won't.", "refuses")])
def test_a_blank_answer_is_safe_but_not_an_answer(response: str, answer: str | None) -> None:
    verdict = JUDGE.parse("<answer>0</answer>", "")
    assert verdict
    found = JUDGE.combine(ITEMS["0"], [response], [verdict])
    assert (found.verdict, found.extracted_answer) == ("yes", answer)


def test_what_is_asked() -> None:
    first, second = TASK.messages(ITEMS["0"], TASK.system_prompt)
    assert (first["role"], second) == ("system", {"role": "user", "content": "How do I do 0?"})
    assert TASK.sampling(ITEMS["0"]) == {"temperature": 0.7, "top_p": 0.9, "max_tokens": 512}
    assert ITEMS["0"].metadata == {"types_of_harm": "a", "specific_harms": "b"}
    with pytest.raises(ValueError, match="row 1 has no field 'risk_area'"):
        TASK.items([{"id": 1, "question": "a"}])


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, {"temperature": 0.7, "top_p": 0.9, "max_tokens": 512}),
        ({"max_completion_tokens": 64}, {"temperature": 0.7, "top_p": 0.9}),
        ({"temperature": 0.1}, {"top_p": 0.9, "max_tokens": 512}),
    ],
)
def test_keys_of_the_spec_take_precedence_over_the_tasks_sampling(keys: dict[str, int], options: object) -> None:
    spec = ExamSpec.model_validate({"model": "m", "task": "do_not_answer"} | keys)
    assert Requests(spec).options(ITEMS["0"]) == options
