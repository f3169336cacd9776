"""The demo's exam and the model that sits it: a fair exam, in HLE's form, and a model that loads and answers."""

import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from jobs import demo_model
from jobs.demo_exam import EXAM, FAMILIES, make_exam, questions, write_exam
from jobs.demo_model import make_model, read_system_prompt, training_conversations
from orchestrator.errors import SpecError

FIELDS = [
    *("id", "question", "image", "image_preview", "answer", "answer_type", "author_name", "rationale"),
    *("rationale_image", "raw_subject", "category", "canary"),
]
CATEGORIES = {
    "Math",
    "Biology/Medicine",
    "Computer Science/AI",
    "Physics",
    "Humanities/Social Science",
    "Other",
    "Chemistry",
    "Engineering",
}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in EXAM.read_text(encoding="utf-8").splitlines()]


def test_the_shipped_exam_is_what_the_generator_writes(tmp_path: Path) -> None:
    write_exam(tmp_path / "exam.jsonl")
    assert (tmp_path / "exam.jsonl").read_bytes() == EXAM.read_bytes()


def test_rows_have_the_schema_of_hle(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert list(row) == FIELDS
        assert len(row["id"]) == 24 and int(row["id"], 16) >= 0
        assert row["image"] == row["canary"] == "" and row["image_preview"] is row["rationale_image"] is None
        assert row["question"] and row["answer"] and row["rationale"] and "\n" not in row["rationale"]


def test_counts_categories_and_types(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == len({row["id"] for row in rows}) == len({row["question"] for row in rows}) == 128
    assert Counter(row["category"] for row in rows) == dict.fromkeys(CATEGORIES, 16)
    assert Counter(row["answer_type"] for row in rows) == {"exactMatch": 80, "multipleChoice": 48}


def test_a_gold_letter_names_a_choice_that_the_rationale_arrives_at(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        stem, _, listed = row["question"].partition("\n\nAnswer Choices:\n")
        assert bool(listed) == (row["answer_type"] == "multipleChoice") and "\n" not in stem
        if listed:
            choices = dict(line.split(". ", 1) for line in listed.split("\n"))
            assert list(choices) == list("ABCD")[: len(choices)] and len(set(choices.values())) == len(choices)
            assert choices[row["answer"]] in row["rationale"]


def test_every_letter_is_right_somewhere(rows: list[dict[str, Any]]) -> None:
    letters = Counter(row["answer"] for row in rows if row["answer_type"] == "multipleChoice")
    assert set(letters) >= set("ABC") and max(letters.values()) <= 0.6 * letters.total()


def test_no_question_of_the_exam_is_trained_on(rows: list[dict[str, Any]]) -> None:
    trained = {question for question, _ in training_conversations()}
    assert trained and trained.isdisjoint(row["question"] for row in rows)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.subject)
def test_the_two_sides_of_a_family_never_meet(family: Any) -> None:
    exam = {question.text for question in islice(questions(family, random.Random(1), held_out=True), 300)}
    training = {question.text for question in islice(questions(family, random.Random(2), held_out=False), 300)}
    assert len(exam) >= 20 and exam.isdisjoint(training)


def test_sums_are_right() -> None:
    for question in make_exam():
        if question.family.subject == "Arithmetic":
            first, second = question.text.removeprefix("What is ").removesuffix("?").split(" + ")
            assert int(question.answer) == int(first) + int(second)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "model"
    make_model(out, steps=4)
    return out


def test_the_template_says_what_the_training_said(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [
        {"role": "system", "content": read_system_prompt()},
        {"role": "user", "content": "What is 1 + 1?"},
        {"role": "assistant", "content": "Answer: 2"},
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert whole.endswith(demo_model.TURNS.format("What is 1 + 1?", "Answer: 2") + "\n")
    asked = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert asked.endswith(demo_model.ASKED.format("What is 1 + 1?")) and whole.startswith(asked)


def test_any_text_survives_the_tokenizer(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "光線 naïve 🙂\tH2SO4\n\n  12345 <b>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_saved_model_loads_and_answers(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 11 + 2?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    answer = model.generate(asked, max_new_tokens=5, do_sample=False)
    assert answer.shape[1] > asked.shape[1]


def test_the_same_recipe_gives_the_same_weights_and_is_not_made_twice(folder: Path, tmp_path: Path) -> None:
    losses: list[float] = []
    make_model(tmp_path / "again", steps=4, progress=lambda step, steps, loss: losses.append(loss))
    weights = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert weights == (folder / "model.safetensors").read_bytes() and len(losses) == 4
    make_model(tmp_path / "again", steps=4, progress=lambda step, steps, loss: losses.append(loss))
    assert len(losses) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_model_that_failed_half_way_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(step: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_model(tmp_path / "model", steps=2, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_model_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SpecError, match="is no model of the demo"):
        make_model(tmp_path, steps=1)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
