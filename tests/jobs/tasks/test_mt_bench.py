"""MT-Bench: what is asked of model and judge, how a rating is read, and what ratings add up to."""

import asyncio
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.exam import judging
from jobs.tasks import en_mtbench, ja_mtbench, mt_bench
from jobs.tasks.japanese_share import count_japanese
from jobs.tasks.metrics import Outcome
from jobs.tasks.mt_bench import CATEGORIES, MtBench, read_rating, read_rating_original
from jobs.tasks.task import Item

DATA = Path(__file__).parents[4] / "shared" / "data"
ROWS: list[dict[str, Any]] = [
    {"question_id": 1, "category": "writing", "turns": ["Write a line.", "Make it shorter."], "reference": None},
    {
        "question_id": 2,
        "category": "math",
        "turns": ["What is 2 + 2?", "And {answer_1} + 1?"],
        "reference": [{"turns": ["4", "5"]}],
    },
]
ITEMS = en_mtbench.TASK.items(ROWS)
JUDGE = en_mtbench.EnglishMtBench.judge


@pytest.mark.parametrize(
    ("reply", "right", "original"),
    [
        ("Rating: [[8]]", 8, 8),
        ("[[7.5]]", 7.5, 7.5),
        ("[9]", None, 9),  # asked again
        ("[[10]] and [[2]]", 2, 10),
        ("点数は8です", None, -1),
        ("[[ 8 ]]", 8, -1),
        ("[[0]]", None, 0),
        ("[[11]]", None, 11),
        ("[[08]]", 8, 8),  # which the original cannot read: its whole task is lost
        ("", None, -1),
        ('as in "[[rating]]": [[3]]', 3, 3),
    ],
)
def test_a_rating(reply: str, right: float | None, original: float) -> None:
    assert read_rating(reply) == right
    assert read_rating_original(reply) == original


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        (["これは日本語です。", "Hello"], (9, 14)),
        (["**太字**の`code`"], (3, 7)),
        (["```python\nprint(1)\n```"], (0, 8)),
        (["ＡＢＣ", "abc"], (3, 6)),
        (["漢字・カナ１２３"], (8, 8)),
        (["<b>太</b> 字"], (2, 2)),
        (["<div><![x]>太"], (1, 12)),
        ([""], (0, 0)),
    ],
)
def test_the_share_of_japanese(texts: list[str], share: tuple[int, int]) -> None:
    counts = [count_japanese(text) for text in texts]
    assert (sum(japanese for japanese, _ in counts), sum(characters for _, characters in counts)) == share


def test_the_second_turn_follows_its_own_first_answer() -> None:
    writing, math = ITEMS
    assert en_mtbench.TASK.messages(writing, "") == [{"role": "user", "content": "Write a line."}]
    assert en_mtbench.TASK.messages(writing, "Be brief.", ["<think>hm</think>" + "x" * 9000]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Write a line."},
        {"role": "assistant", "content": "x" * 8192},
        {"role": "user", "content": "Make it shorter."},
    ]
    assert [en_mtbench.TASK.sampling(item) for item in (writing, math)] == [{"temperature": 0.7}, {"temperature": 0.0}]
    assert (en_mtbench.TASK.turns, en_mtbench.TASK.samples) == (2, 5)


@pytest.mark.parametrize("task", [en_mtbench.TASK, ja_mtbench.TASK])
def test_the_judge_sees_what_it_rates_and_a_reference_only_where_there_is_one(task: MtBench) -> None:
    judge = task.judge
    assert judge
    writing, math = task.items(ROWS)
    asked = {
        (item.id, turn): judge.messages(item, ["ONE {answer_2}", "TWO"][:turn], judge.prompt)
        for item in (writing, math)
        for turn in (1, 2)
    }
    texts = {key: messages[-1]["content"] for key, messages in asked.items()}
    assert all([message["role"] for message in messages] == ["system", "user"] for messages in asked.values())
    assert "ONE {answer_2}" in texts["1", 1] and "shorter" not in texts["1", 1] and "TWO" not in texts["1", 1]
    assert texts["1", 2].index("ONE") < texts["1", 2].index("shorter") < texts["1", 2].index("TWO")
    assert "\n4\n" in texts["2", 1] and "\n5\n" not in texts["2", 1]
    assert texts["2", 2].count("And {answer_1} + 1?") == 2 and "\n5\n" in texts["2", 2]
    assert "[[5]]" in texts["1", 1] + asked["1", 2][0]["content"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Rate {question_1} {answer_1}", "no section '=== first turn ==='"),
        (JUDGE.prompt.replace("{reference_2}", ""), "{reference_2} in its section"),
    ],
)
def test_a_judge_prompt_without_a_section_or_placeholder_is_refused(prompt: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JUDGE.messages(*trial(), prompt)


def trial() -> tuple[Item, list[str]]:
    item, response = JUDGE.trial
    return item, [response]


class Client:
    """Replies in order, as `ChatClient.ask` does."""

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = list(replies), []  # type: ignore[var-annotated]

    async def ask(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> Any:
        self.asked.append((messages, options))
        return SimpleNamespace(status="ok", reason=None, response=self.replies.pop(0), reasoning=None)


def ask(client: Client, item: Item, responses: list[str]) -> Any:
    asked = judging.AskedJudge(cast(Any, None), "openai", JUDGE, JUDGE.prompt, {})
    return asyncio.run(judging._ask_judge(cast(Any, client), asked, item, responses))


def test_each_turn_is_a_request_of_its_own() -> None:
    client = Client("fine [[8]]", "no rating", "[[6]]")
    verdict, outcomes = ask(client, ITEMS[0], ["はい ok", "TWO"])
    assert [("TWO" in messages[-1]["content"]) for messages, _ in client.asked] == [False, True, True]
    assert len(outcomes) == 3 and (verdict.verdict, verdict.extracted_answer) == ("scored", "8, 6")
    assert {name: verdict.scores[name] for name in ("turn_1", "turn_2")} == {"turn_1": 8, "turn_2": 6}
    assert (verdict.scores["n_japanese_characters"], verdict.scores["n_characters"]) == (2, 7)


def test_an_answer_with_a_turn_that_has_no_rating_has_no_verdict() -> None:
    assert ask(Client("[[8]]", "?", "[9]", "[[11]]"), ITEMS[0], ["a", "b"])[0] is None
    assert ask(Client("[[1]]", "[[1]]"), ITEMS[0], ["", "b"])[0].extracted_answer is None


def outcome(identity: str, sample: int, first: float | None, second: float = 0) -> Outcome:
    if first is None:
        return Outcome(identity, sample, "ok", "unjudged", None)
    scores = {"turn_1": first, "turn_2": second} | {f"turn_{turn}_original_reading": 1.0 for turn in (1, 2)}
    scores |= {"n_japanese_characters": 3.0, "n_characters": 4.0}
    return Outcome(identity, sample, "ok", "scored", None, scores=scores)


def test_figures_are_means_of_questions_and_a_missing_rating_does_not_count() -> None:
    outcomes = [outcome("1", 0, 8, 6), outcome("1", 1, None), outcome("2", 0, 4, 2), outcome("2", 1, 2, 2)]
    items = {item.id: item for item in ITEMS}
    figures = ja_mtbench.TASK.figures(items, 2, outcomes)
    scores = figures["scores"]
    assert scores["judge_score_writing_turn_1_avg"] == 0.8
    assert scores["judge_score_math_avg"] == pytest.approx(0.25)
    assert scores["judge_score_overall_turn_1_avg"] == pytest.approx((0.8 + 0.3) / 2)
    assert scores["judge_score_overall_turn_2_avg"] == pytest.approx((0.6 + 0.2) / 2)
    assert scores["judge_score_overall_avg"] == pytest.approx((0.7 + 0.25) / 2)
    assert scores["japanese_ratio_overall"] == scores["japanese_ratio_math"] == 0.75
    assert (figures["n_unjudged"], figures["n_judged"]) == (1, 3)
    assert figures["judge_score_overall_avg_half_width"] == pytest.approx(0.441)
    assert list(figures["categories"]) == list(CATEGORIES)
    assert ja_mtbench.TASK.figures(items, 2, reversed(outcomes)) == figures
    assert "japanese_ratio_overall" not in en_mtbench.TASK.figures(items, 2, outcomes)["scores"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turns": ["one"]}, "row 1: turns is not a list of 2 texts"),
        ({"category": "math"}, r"row 1 \(category math\): reference is not a list of 2 texts"),
        ({"question_id": None}, "row 1: question_id is null"),
    ],
)
def test_a_wrong_row_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        en_mtbench.TASK.items([ROWS[0] | change])


def lines(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"needs {path}, MT-Bench's own data")
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.decode().splitlines() if line.strip()]


def test_every_real_judge_reply_is_read_as_recorded() -> None:
    replies = lines("ja_mtbench/model_judgment_gpt-4_single.jsonl.gz")
    assert len(replies) == 564
    for reply in replies:
        assert read_rating(reply["judgment"]) == read_rating_original(reply["judgment"]) == reply["score"]


@pytest.mark.parametrize(
    ("task", "questions", "references"),
    [
        (en_mtbench.TASK, "mtbench/question.jsonl", "mtbench/reference_gpt-4.jsonl"),
        (
            ja_mtbench.TASK,
            "ja_mtbench/question_full.jsonl",
            "ja_mtbench/reference_answer_base-gpt4o-with-human-annotation.jsonl.gz",
        ),
    ],
)
def test_the_real_questions_are_items(task: MtBench, questions: str, references: str) -> None:
    found = {line["question_id"]: line["choices"] for line in lines(references)}
    items = task.items([row | {"reference": found.get(row["question_id"])} for row in lines(questions)])
    assert (len(items), {item.category for item in items}) == (80, set(CATEGORIES))
    assert task.judge
    for item in items:
        reference = (item.metadata or {}).get("reference")
        shown = task.judge.messages(item, ["a", "b"], task.judge.prompt)[-1]["content"]
        assert (reference is not None) == (item.category in mt_bench.WITH_REFERENCE)
        assert reference is None or all(text in shown for text in reference)
