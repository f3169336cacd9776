"""JEMHopQA: the original's figures and the right one, on worked cases and on the real references."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from jobs.tasks import ja_jemhopqa, ja_jemhopqa_cot
from jobs.tasks.japanese_qa import character_f1, normal, original_normal, stated_answer, word_order_ratio
from jobs.tasks.jemhopqa import Jemhopqa
from jobs.tasks.task import Item, Verdict

TASKS = [ja_jemhopqa.TASK, ja_jemhopqa_cot.TASK]
DATA = Path(__file__).parents[4] / "shared" / "data" / "jemhopqa"


def score(gold: str, response: str) -> Verdict:
    return TASKS[0].score(Item("a", "", gold), [response])


@pytest.mark.parametrize(
    ("gold", "response", "raw", "quasi", "right"),
    [
        ("東京都", r"回答: $\boxed{東京}$", 0.8, 0.8, 0.8),
        ("NO", "答えはいいえです。", 0, 1, 1),
        ("夏目漱石", "夏目漱石です。", 0.7273, 1, 0),  # no label, no box: unanswered
        ("123", r"\boxed{１２３}", 0, 1, 1),
        ("NO", r"\boxed{No}", 0.5, 0.5, 1),
        ("X", r"回答: $\boxed{ANSWER}$ の形で、$\boxed{X}$", 0, 0, 1),  # the template, repeated
        ("アルベルト・アインシュタイン", "回答：アルベルト アインシュタイン", 0.5263, 0.5263, 0.9286),
        ("「坊っちゃん」", r"\boxed{坊っちゃん}", 0.8333, 0.8333, 1),
        ("東京都", r"回答: $\boxed{\text{東京都}}$", 1, 1, 1),
        ("f{x}", r"\boxed{f{x}}", 0.8571, 0.8571, 1),  # the original stops at the first brace
        ("YES", r"回答: $\boxed{はい}$", 0, 1, 1),
        ("YES", r"回答: $\boxed{「はい」}$", 0, 1, 1),
        ("YES", "回答：**yes**", 0, 0, 1),
        ("東京都", "大阪か。答えは東京都だ。", 1, 1, 1),
    ],
)
def test_worked_cases(gold: str, response: str, raw: float, quasi: float, right: float) -> None:
    verdict = score(gold, response)
    assert verdict.scores
    found = [round(verdict.scores[name], 4) for name in ("f1_score", "f1_score_quasi", "char_f1")]
    assert found == [raw, quasi, right], verdict
    assert verdict.verdict == ("yes" if right == 1 else "no")


def test_all_figures_of_an_answer() -> None:
    assert score("New York City", r"\boxed{City of New York}").scores == pytest.approx(
        {
            "f1_score": 26 / 29,
            "f1_score_quasi": 26 / 29,
            "exact_match": 0,
            "quasi_exact_match": 0,
            "llmjpeval_f1_score": 0.9,
            "llmjpeval_f1_score_quasi": 0.9,
            "char_f1": 26 / 29,
        }
    )
    scores = score("NO", r"\boxed{いいえ}").scores
    assert scores
    assert [scores["exact_match"], scores["quasi_exact_match"], scores["llmjpeval_f1_score_quasi"]] == [0, 1, 1]


@pytest.mark.parametrize(
    ("answer", "gold", "expected"), [("", "", 1), ("", "a", 0), ("a", "", 0), ("aab", "abb", 2 / 3), ("x", "y", 0)]
)
def test_character_f1(answer: str, gold: str, expected: float) -> None:
    assert character_f1(answer, gold) == pytest.approx(expected)


def test_word_order_ratio_rounds_to_whole_percent() -> None:
    assert word_order_ratio("abc", "abd") == 0.67


@pytest.mark.parametrize(
    ("text", "original", "ours"),
    [
        ("「はい」", "YES", "YES"),
        ("true", "true", "YES"),
        ("ＯＫ", "YES", "YES"),
        ("「」", "「」", "「」"),
        ("*x*", "x", "x"),
        ("（東京）", "東京", "東京"),
        ("いいえ。", "いいえ。", "いいえ。"),
    ],
)
def test_normal_forms(text: str, original: str, ours: str) -> None:
    assert (original_normal(text), normal(text)) == (original, ours)


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        "申し訳ありませんが、お答えできません。",
        r"2つの作品を比べます。回答: $\boxed{東",
        "<think>回答: 東京",
    ],
)
def test_empty_refusing_and_truncated_answers_are_unanswered(response: str) -> None:
    verdict = score("東京", response)
    assert verdict.scores
    assert (verdict.verdict, verdict.extracted_answer, verdict.scores["char_f1"]) == ("no", None, 0)
    assert all(score("東京", "").scores[name] == 0 for name in verdict.scores)  # type: ignore[index]


@pytest.mark.parametrize(
    ("response", "stated"),
    [
        (r"<think>\boxed{大阪}</think>\boxed{東京}", "東京"),
        ("【回答】 東京", "東京"),
        (r"回答: $\boxed{\text{東京}}$", "東京"),
        ("回答: $東京$", "東京"),
        ("正解は東京です。", "東京"),
        ("答えはわかりません。", None),
    ],
)
def test_what_is_stated(response: str, stated: str | None) -> None:
    assert stated_answer(response) == stated


ROW: dict[str, Any] = {"question": "兄と弟のどちらが先に生まれた？", "answer": "兄"}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.name))
def test_items(task: Jemhopqa) -> None:
    first, second = task.items([ROW, ROW | {"qid": "q1", "type": "comparison"}])
    assert (second.id, second.category, second.answer) == ("q1", "comparison", "兄")
    assert first.question == second.question
    assert "問題: 兄と弟の" in first.question
    assert r"回答: $\boxed{ANSWER}$" in first.question
    assert pickle.loads(pickle.dumps(task)).score(first, [task.reference_response(first)]).verdict == "yes"
    with pytest.raises(ValueError, match="row 2: answer is null, expected text"):
        task.items([ROW, ROW | {"answer": None}])
    with pytest.raises(ValueError, match="row 1 has no field 'question'"):
        task.items([{"answer": "x"}])


@pytest.mark.parametrize("name", ["dev.json", "dev_ver1.1.json", "dev_ver1.2.json"])
def test_every_real_reference_is_right(name: str) -> None:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is not beside the project")
    task = TASKS[1]
    items = task.items(json.loads(path.read_text(encoding="utf-8")))
    assert len(items) == 120
    for item in items:
        verdict = task.score(item, [task.reference_response(item)])
        assert verdict.scores
        assert (verdict.verdict, verdict.scores["char_f1"], verdict.scores["f1_score"]) == ("yes", 1, 1), item
        other = next(one for one in items if normal(one.answer) != normal(item.answer))
        assert task.score(item, [task.reference_response(other)]).verdict == "no"
