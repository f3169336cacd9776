"""WMT20: corpus BLEU out of the answers' counts, against sacrebleu's own, and on worked cases."""

import pickle
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from jobs.tasks import bleu, ja_wmt20_en_ja, ja_wmt20_ja_en, libraries
from jobs.tasks.metrics import Outcome
from jobs.tasks.scoring_process import ScoringProcess
from jobs.tasks.task import Item
from jobs.tasks.translation import Translation, labelled_line, original_line

EN_JA, JA_EN = ja_wmt20_en_ja.TASK, ja_wmt20_ja_en.TASK
ENGLISH = ("The weather is fine today.", "He went to Tokyo yesterday.")


def outcomes(task: Translation, pairs: Iterable[tuple[Item, str]]) -> list[Outcome]:
    return [
        Outcome(item.id, 0, "ok", verdict.verdict, None, scores=verdict.scores)
        for item, response in pairs
        for verdict in [task.score(item, [response])]
    ]


def figures(task: Translation, references: Sequence[str], responses: Sequence[str]) -> dict[str, Any]:
    items = {str(number): Item(str(number), "", reference) for number, reference in enumerate(references)}
    return task.figures(items, 1, outcomes(task, zip(items.values(), responses, strict=False)))


def test_worked_case_of_english_to_japanese() -> None:
    references = ["彼は昨日、東京に行った。", "天気は良い。"]
    found = figures(EN_JA, references, ["日本語: 彼は昨日東京に行った。", "翻訳します。\n日本語: 天気が良い。"])
    assert found["scores"] == pytest.approx(
        {"bleu": 52.6136, "bleu_lmevalja": 52.6136, "bleu_any_label": 52.6136}, abs=5e-5
    )
    assert found["bleu_signature"] == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    assert found["bleu_segmenters"]["bleu"].startswith("janome ")
    assert found["bleu_segmenters"]["bleu_lmevalja"].startswith("nagisa ")
    low, high = found["bleu_intervals"]["bleu"]
    assert low <= 52.62
    assert high >= 52.61


@pytest.mark.parametrize(
    ("second", "original", "right", "unextracted"),
    [
        ("English: He went to Tokyo.", 80.6801, 80.6801, [0, 0]),
        ("He went to Tokyo.", 36.7879, 36.7879, [1, 1]),
        ("**English:** He went to Tokyo.", 36.7879, 80.6801, [0, 1]),
        ("English： He went to Tokyo.", 36.7879, 80.6801, [0, 1]),
        ("", 36.7879, 36.7879, [1, 1]),
        ("I am sorry, but I cannot translate this.", 36.7879, 36.7879, [1, 1]),
    ],
)
def test_worked_cases_of_japanese_to_english(
    second: str, original: float, right: float, unextracted: list[int]
) -> None:
    found = figures(JA_EN, ENGLISH, [f"English: {ENGLISH[0]}", second])
    assert found["scores"]["bleu_any_label"] == pytest.approx(right, abs=5e-5)
    assert found["scores"]["bleu"] == pytest.approx(original, abs=5e-5)
    assert [found["n_unextracted"], found["n_unextracted_original"]] == unextracted
    assert (found["n_answered"], found["n_judged"], found["accuracy"]) == (2, 2, None)


def test_what_was_not_answered_is_an_empty_translation() -> None:
    whole = figures(JA_EN, ENGLISH, [f"English: {ENGLISH[0]}", ""])
    part = figures(JA_EN, ENGLISH, [f"English: {ENGLISH[0]}"])
    assert part["scores"] == whole["scores"]
    assert (part["n_missing"], part["n_unextracted"]) == (1, 0)


def test_without_a_verdict_there_is_no_figure() -> None:
    found = figures(JA_EN, ENGLISH, [])
    assert "scores" not in found
    assert "bleu_intervals" not in found
    assert found["n_missing"] == 2


def test_counts_give_the_bleu_of_sacrebleu_to_the_last_bit_in_any_order() -> None:
    from sacrebleu.metrics.bleu import BLEU

    generator = random.Random(3)
    words = ["the", "a", "cat,", "sat", "on", "mat.", "in", "Tokyo", "1,000", "U.S.", "it's"]
    references = [" ".join(generator.choices(words, k=generator.randint(1, 12))) for _ in range(60)]
    translations = [" ".join(word for word in text.split() if generator.random() < 0.8) or "x y" for text in references]
    expected = BLEU().corpus_score(translations, [references]).score
    responses = [f"English: {text}" for text in translations]
    found = figures(JA_EN, references, responses)
    assert found["scores"]["bleu"] == expected
    low, high = found["bleu_intervals"]["bleu"]
    assert low < expected < high
    backwards = figures(JA_EN, references[::-1], responses[::-1])
    assert backwards["scores"] == found["scores"]


def test_all_samples_of_a_question_count() -> None:
    item = Item("a", "", ENGLISH[0])
    twice = [
        Outcome("a", sample, "ok", "scored", None, scores=JA_EN.score(item, [f"English: {text}"]).scores)
        for sample, text in enumerate(ENGLISH)
    ]
    both = figures(JA_EN, [ENGLISH[0]] * 2, [f"English: {text}" for text in ENGLISH])
    assert JA_EN.figures({"a": item}, 2, twice)["scores"] == both["scores"]
    assert JA_EN.figures({"a": item}, 2, twice)["bleu_intervals"]["bleu"] is None


@pytest.mark.parametrize(
    ("response", "original", "right"),
    [
        ("日本語：x", None, "x"),
        ("前置き 日本語: x", None, None),
        ("**日本語:** x", None, "x"),
        ("**日本語**: x", None, "x"),
        ("**日本語: x**", None, "x"),
        ("日本語: a\n日本語: b", "b", "b"),
        ("日本語:\n次の行", "次の行", "次の行"),
        ("  日本語: x  ", "x  ", "x"),
        ("日本語:", "", None),
        ("", None, None),
        ("<think>\n日本語: x", "x", None),
    ],
)
def test_where_the_translation_stands(response: str, original: str | None, right: str | None) -> None:
    assert (original_line(response, "日本語"), labelled_line(response, "日本語")) == (
        original,
        right,
    )


def broken_import() -> None:
    raise ImportError("not here")


def test_words_that_cannot_be_counted_leave_an_empty_translation(monkeypatch: pytest.MonkeyPatch) -> None:
    process = ScoringProcess(warm=broken_import)
    monkeypatch.setattr(bleu, "_PROCESS", process)
    verdict = JA_EN.score(Item("a", "", "x"), ["English: x"])
    assert "ImportError: not here" in verdict.reasoning
    assert verdict.scores == {"unextracted": 0, "unextracted_original": 0}


ROW = {"translation": {"en": "Good morning.", "ja": "おはよう。\n"}}


@pytest.mark.parametrize(
    ("task", "end", "reference"),
    [(EN_JA, "英語: Good morning.\n", "おはよう。"), (JA_EN, "Japanese: おはよう。\n\n", "Good morning.")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_items(task: Translation, end: str, reference: str) -> None:
    rows: list[dict[str, Any]] = [
        ROW,
        {"translation": repr(ROW["translation"])},
        {"translation": {"en": ["Good morning.", "Hello."], "ja": ["おはよう。\n"]}},
    ]
    items = task.items(rows)
    assert len({item.id for item in items}) == 3
    assert {item.answer for item in items} == {reference}
    assert items[0].question.endswith(end)
    assert len({item.question for item in items}) == 1
    verdict = pickle.loads(pickle.dumps(task)).score(items[0], [task.reference_response(items[0])])
    assert (verdict.verdict, verdict.extracted_answer) == ("scored", reference)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "row 1 has no field 'translation'"),
        ({"translation": "Good morning."}, "row 1: translation is a text that is not an object"),
        ({"translation": 5}, "row 1: translation is a int, expected an object"),
        ({"translation": {"en": "x"}}, "row 1, translation has no field 'ja'"),
        ({"translation": {"en": "x", "ja": []}}, "row 1, translation: ja is a list, expected text"),
    ],
)
def test_broken_rows_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EN_JA.items([row])


def test_a_missing_library_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="sacrebleu, janome, nagisa, not installed here"):
        EN_JA.items([ROW])
