"""The exams of mathematics: the original's figure and the right one, on worked cases and on the real references."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from jobs.tasks import en_aime_2024_2025, en_math_500, ja_math_100, libraries, math_answers
from jobs.tasks.math_answers import agree, framed, stated_answer, with_fractions_for_percent
from jobs.tasks.math_task import MathTask
from jobs.tasks.scoring_process import ScoringProcess
from jobs.tasks.task import Item, Verdict

DATA = Path(__file__).parents[4] / "shared" / "data"
MATH, AIME, JA = en_math_500.TASK, en_aime_2024_2025.TASK, ja_math_100.TASK
CLOSING = "Therefore, the final answer is: {}. I hope it is correct."


def score(task: MathTask, gold: str, response: str) -> Verdict:
    return task.score(Item("a", "", gold), [response])


@pytest.mark.parametrize(
    ("gold", "response", "match", "right"),
    [
        (r"\frac12", r"\boxed{0.5}", 1, 1),
        ("2x+1", r"\boxed{1+2x}", 1, 1),
        ("2x+1", "the answer is 2x+1", 0, 1),
        (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}", 1, 1),
        (r"\text{Evelyn}", "The final answer is Evelyn", 0, 1),
        (r"\text{Evelyn}", r"\boxed{\text{Carla}}", 0, 0),
        ("1,-2", r"\boxed{-2, 1}", 1, 1),
        ("1,-2", r"\boxed{-2, 2}", 0, 0),
        ("1/3", r"$\boxed{0.33333}$", 1, 1),
        ("1/3", r"$\boxed{0.333}$", 0, 0),
        (r"2\text{ cm}", r"\boxed{2}", 1, 1),
        (r"90^\circ", r"\boxed{90}", 1, 1),
        (r"11,\! 111", r"\boxed{11111}", 1, 1),
        ("3", r"First $\boxed{2}$. No: $\boxed{3}$.", 1, 1),
        ("2", r"First $\boxed{2}$. No: $\boxed{3}$.", 0, 0),
        (r"10\%", r"$\boxed{0.1}$", 1, 1),
        (r"10\%", r"$\boxed{10\%}$", 1, 1),
        (r"10\%", r"$\boxed{10}$", 0, 0),
        ("10", r"$\boxed{10\%}$", 0, 0),
        (r"\sqrt{3}", r"$\boxed{1.73205}$", 1, 1),  # 0 in the original, an older math-verify
        (r"\sqrt{3}", r"$\boxed{1.7320508}$", 1, 1),
        (r"\sqrt{3}", r"$\boxed{1.732}$", 0, 0),
        ("(1,2)", r"\boxed{(2,1)}", 0, 0),
        ("52_8", r"\boxed{52_9}", 1, 0),  # the base is dropped
        ("52_8", r"\boxed{52_{8}}", 1, 1),
        ("52_8", r"\boxed{52}", 1, 1),
        (r"15\mbox{ cm}^2", r"\boxed{15\text{ cm}^3}", 1, 0),
        (r"15\mbox{ cm}^2", r"\boxed{15}", 1, 1),
        (".0000672", r"\boxed{.0000673}", 1, 0),
        (".0000672", r"\boxed{6.72 \cdot 10^{-5}}", 1, 1),
        ("[0,1)", r"\boxed{[0,1]}", 0, 0),
        ("5", CLOSING.format("$5$"), 1, 1),
        ("5", CLOSING.format(r"$\boxed{x=5}$"), 1, 1),
        ("5", CLOSING.format(r"$\boxed{6}$"), 0, 0),
        ("5", "回答：5", 0, 1),
        ("5", r"回答: $\boxed{5}$", 1, 1),
        ("5", "There are 5 of them", 1, 0),  # a number, and no stated answer
        (r"\frac{14}{3}", r"so $x = \boxed{4\frac{2}{3}}$", 1, 1),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\[\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}\]", 1, 1),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\[\boxed{\begin{pmatrix} 2 \\ 1 \end{pmatrix}}\]", 0, 0),
    ],
)
def test_worked_cases(gold: str, response: str, match: int, right: int) -> None:
    verdict = score(MATH, gold, response)
    assert (verdict.scores, verdict.verdict) == ({"extractive_match": match}, "yes" if right else "no"), verdict


@pytest.mark.parametrize(
    ("gold", "response", "match", "right"),
    [
        ("25", r"\boxed{025}", 1, 1),
        ("025", r"\boxed{25}", 1, 1),
        ("204", r"\boxed{m+n=204}", 1, 1),
        ("204", "we have 204 of 300", 0, 0),
        ("204", r"\boxed{203.9999999}", 0, 0),
        ("204", r"\boxed{204.000001}", 0, 0),
        ("204", r"\boxed{204.0}", 1, 1),
        ("204", r"\boxed{204\text{ pages}}", 1, 1),
        ("204", r"\boxed{204\%}", 0, 0),
        ("204", r"\boxed{\frac{408}{2}}", 1, 1),
        ("204", r"\boxed{205}", 0, 0),
    ],
)
def test_worked_cases_of_aime(gold: str, response: str, match: int, right: int) -> None:
    verdict = score(AIME, gold, response)
    assert (verdict.scores, verdict.verdict) == ({"extractive_match": match}, "yes" if right else "no"), verdict


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        "I am sorry, but I cannot solve this problem.",
        "申し訳ありませんが、お答えできません。",
        r"First we see that x is small. Therefore, the final answer is: $\boxed{",
        "<think>It may be $\\boxed{",
    ],
)
@pytest.mark.parametrize("task", [MATH, AIME, JA], ids=lambda task: str(task.name))
def test_empty_refusing_and_truncated_answers_are_unanswered(task: MathTask, response: str) -> None:
    verdict = score(task, "5", response)
    assert (verdict.verdict, verdict.extracted_answer, verdict.scores) == ("no", None, {"extractive_match": 0})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"$\boxed{10\%}$", r"$\boxed{10\cdot\frac{1}{100}}$"),
        (r"\boxed{\frac{1}{2} \text{ or } 50\%}", r"\boxed{\frac{1}{2} \text{ or } 50\cdot\frac{1}{100}}"),
        (r"It is 10\% of 5.", r"It is 10\% of 5."),
        (r"\(12.5 \%\)", r"\(12.5\cdot\frac{1}{100}\)"),
        (r"$x\%$", r"$x\%$"),
    ],
)
def test_percent_signs_become_products_in_formulas_only(text: str, expected: str) -> None:
    assert with_fractions_for_percent(text) == expected


@pytest.mark.parametrize(
    ("response", "stated"),
    [
        (r"<think>\boxed{1}</think>\boxed{2}", "2"),
        (r"Answer: 1, hence \boxed{2}", "2"),
        (CLOSING.format("$90$"), "$90$"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("答え: 7", "7"),
        ("7", None),
    ],
)
def test_what_is_stated(response: str, stated: str | None) -> None:
    assert stated_answer(response) == stated


def test_a_comparison_that_does_not_end_is_wrong_and_the_next_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    process = ScoringProcess(warm=math_answers.import_math_verify)
    monkeypatch.setattr(math_answers, "_PROCESS", process)
    monkeypatch.setattr(math_answers, "DEADLINE", 1.5)
    verdict = score(MATH, "5", r"$\boxed{9^{9^{9^{9^{9}}}}}$")
    assert (verdict.verdict, verdict.scores) == ("no", {"extractive_match": 0})
    assert "1.5 s" in verdict.reasoning or verdict.reasoning == "not equal to the reference"
    assert agree("$0.5$", "latex", framed(r"\frac12")) == (True, "")
    process.close()


def broken_import() -> None:
    raise ImportError("not here")


def test_a_broken_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    process = ScoringProcess(warm=broken_import)
    monkeypatch.setattr(math_answers, "_PROCESS", process)
    verdict = score(MATH, "x+1", r"$\boxed{x+2}$")
    assert verdict.verdict == "no"
    assert "ImportError: not here" in verdict.reasoning
    process.close()


def test_a_missing_library_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="math_verify, not installed here"):
        MATH.items([])


ROWS: dict[str, dict[str, Any]] = {
    "en_math_500": {
        "unique_id": "test/algebra/1.json",
        "problem": "Half of 3?",
        "solution": r"It is $\boxed{\frac{3}{2}}$.",
        "subject": "Algebra",
    },
    "ja_math_100": {"ja": "3の半分は？", "answer": r"\frac{3}{2}"},
    "en_aime_2024_2025": {"problem": "Twice 12?", "answer": "024"},
}


@pytest.mark.parametrize("task", [MATH, AIME, JA], ids=lambda task: str(task.name))
def test_items(task: MathTask) -> None:
    row = ROWS[task.name]
    first, second = task.items([row, row])
    assert first.id != second.id
    assert task.items([row])[0] == first
    assert str(row.get("problem") or row["ja"]) in first.question
    assert r"$\boxed{ANSWER}$" in first.question
    assert pickle.loads(pickle.dumps(task)).score(first, [task.reference_response(first)]).verdict == "yes"
    assert task.reward(task.reference_response(first), first.answer) == 1


def test_the_years_of_aime_are_its_categories() -> None:
    rows = [{"year": "2024", "id": 1}, {"config": "yentinglin/aime_2025", "id": 1}, {}]
    items = AIME.items([ROWS["en_aime_2024_2025"] | row for row in rows])
    assert [item.category for item in items] == ["2024", "2025", ""]
    assert [item.id for item in items[:2]] == ["1", "1-2"]


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (MATH, {"problem": None}, "row 1: problem is null, expected text"),
        (MATH, {"solution": "It is 3."}, r"row 1: solution has no \\boxed"),
        (AIME, {"answer": "1/2"}, "row 1: answer is '1/2', expected a whole number"),
        (AIME, {"answer": ""}, "row 1: answer is empty"),
        (JA, {"ja": 5}, "row 1: ja is a int, expected text"),
    ],
)
def test_broken_rows_are_named(task: MathTask, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task.items([ROWS[task.name] | change])


def rows_of(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not beside the project")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("task", "name", "count"),
    [
        (MATH, "math/math500_test.jsonl.gz", 500),
        (AIME, "aime/aime24_qwen.jsonl.gz", 30),
        (AIME, "aime/aime25_test.jsonl", 30),
    ],
)
def test_every_real_reference_is_right_and_near_misses_are_not(task: MathTask, name: str, count: int) -> None:
    rows = rows_of(name)
    items = task.items(rows)
    assert len(items) == count
    if task is MATH:
        assert [item.answer for item in items] == [row["answer"] for row in rows]
    for item in items:
        verdict = task.score(item, [task.reference_response(item)])
        assert (verdict.verdict, verdict.scores) == ("yes", {"extractive_match": 1}), item.answer
    for item in items[:: 1 if count == 30 else 5]:
        verdict = task.score(item, [CLOSING.format(rf"$\boxed{{{item.answer}+1}}$")])
        assert verdict.verdict == "no", item.answer
