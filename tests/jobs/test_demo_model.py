"""The demo's exam and the model that sits it: a fair exam, in HLE's form, and a model that loads and answers."""

import copy
import json
import random
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from jobs.demo import model
from jobs.demo.exam import EXAM, FAMILIES, make_exam, questions, write_exam
from jobs.demo.model import BATCH_SIZE, TRAINING, make_start, training_conversations
from jobs.demo.muon import MuonAdamW
from jobs.tasks import hle
from jobs.tasks.prompt_files import load_prompt
from orchestrator.errors import SpecError
from orchestrator.spec import load_spec
from orchestrator.training.spec import SftSpec

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
    trained = {asked["content"] for _, asked, _ in training_conversations()}
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
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    make_start(out, steps=4)
    return out / "made"


@pytest.fixture(scope="module")
def tokenizer(made: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(made / "untrained")


def test_a_conversation_is_tokenized_whole_and_short(made: Path, tokenizer: Any) -> None:
    spec = load_spec(SftSpec, TRAINING, [])
    rows = [json.loads(line)["messages"] for line in (made / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 4 * BATCH_SIZE == 4 * spec.batch_size
    for messages in rows:
        ids = tokenizer.apply_chat_template(messages)["input_ids"]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        assert tokenizer.decode(ids) == text and all(message["content"] in text for message in messages)
        assert len(ids) <= spec.max_length


def test_the_exam_asks_in_the_words_of_the_training(rows: list[dict[str, Any]], made: Path, tokenizer: Any) -> None:
    system, _ = load_prompt("hle_system.txt")
    [item, *_] = hle.items_from_rows(rows[:1])
    asked = hle.TASK.messages(item, system)
    assert asked[0] == training_conversations(steps=1)[0][0]
    answered = [*asked, {"role": "assistant", "content": "Answer: 2"}]
    start = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    assert whole == start + "Answer: 2<|im_end|>\n"
    assert len(tokenizer(system).input_ids) == 1


def test_any_text_survives_the_tokenizer(tokenizer: Any) -> None:
    text = "光線 naïve 🙂\tH2SO4\n\n  12345 <b>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_untrained_model_loads_and_answers(made: Path, tokenizer: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(made / "untrained")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 11 + 2?"}], add_generation_prompt=True, return_tensors="pt"
    )["input_ids"]
    answer = model.generate(asked, max_new_tokens=5, do_sample=False)
    assert answer.shape[1] > asked.shape[1]


def test_the_same_recipe_makes_the_same_and_only_once(made: Path, tmp_path: Path) -> None:
    make_start(tmp_path, steps=4)
    for name in ("untrained/model.safetensors", "untrained/tokenizer.json", "train.jsonl"):
        assert (tmp_path / "made" / name).read_bytes() == (made / name).read_bytes()
    checkpoint = tmp_path / "made" / "sft" / "checkpoints"
    checkpoint.mkdir(parents=True)
    make_start(tmp_path, steps=4)
    assert checkpoint.exists() and [path.name for path in tmp_path.iterdir()] == ["made"]


def test_another_recipe_replaces_all_that_came_of_the_old_one(tmp_path: Path) -> None:
    make_start(tmp_path, steps=1)
    (tmp_path / "made" / "sft").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kosen-merge.json").write_text("{}")
    make_start(tmp_path, steps=2)
    assert len((tmp_path / "made" / "train.jsonl").read_text().splitlines()) == 2 * BATCH_SIZE
    assert not (tmp_path / "made" / "sft").exists() and not (tmp_path / "model").exists()


def test_what_failed_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_start(tmp_path, steps=1)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_not_the_demos_are_left_alone(tmp_path: Path) -> None:
    for name in ("made", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("years of work")
    with pytest.raises(SpecError, match="was not made by the demo"):
        make_start(tmp_path, steps=1)
    (tmp_path / "made" / "thesis.tex").rename(tmp_path / "thesis.tex")
    (tmp_path / "made").rmdir()
    make_start(tmp_path, steps=1)
    assert (tmp_path / "model" / "thesis.tex").read_text() == "years of work"


def test_the_optimizer_goes_on_from_its_state_as_if_nothing_had_happened(made: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    def start() -> tuple[Any, Any]:
        model = AutoModelForCausalLM.from_pretrained(made / "untrained", dtype=torch.float32)
        return model, MuonAdamW(model.parameters(), lr=0.03, weight_decay=0.01, betas=(0.9, 0.98), adamw_lr=0.006)

    def train(model: Any, optimizer: Any, steps: range) -> list[float]:
        losses = []
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] *= 1 - step / 10
            ids = torch.arange(step, step + 24).reshape(1, -1)
            loss = model(ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    model, optimizer = start()
    losses = train(model, optimizer, range(3))
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict())
    losses += train(model, optimizer, range(3, 6))
    again, resumed = start()
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert train(again, resumed, range(3, 6)) == losses[3:]
    assert losses[-1] < losses[0]
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
