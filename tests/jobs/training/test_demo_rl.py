"""The demo of reinforcement learning: a task whose data are half wrong, and the pipeline whose score rises on it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.files import REPOSITORY
from jobs.demo.__main__ import main
from jobs.demo.sums import N_EXAM, answer, exam_row, explain, question, split, sums
from jobs.tasks import hle
from jobs.tasks.answers import equivalent, read_answer
from jobs.tasks.prompt_files import load_prompt
from orchestrator.errors import SpecError
from orchestrator.spec import load_spec
from orchestrator.training.spec import PpoSpec, SftSpec
from tests.support.harness import records, run


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    assert main(["sums", "--out", str(folder)]) == 0
    return folder


def test_every_sum_carries_and_none_of_the_exam_is_trained_on(task: Path) -> None:
    assert all(a % 10 + b % 10 >= 10 and 10 <= a + b < 100 for a, b in sums())
    asked = {row["question"] for row in records(task / "exam.jsonl")}
    imitated = {row["messages"][1]["content"] for row in records(task / "sft.jsonl")}
    rewarded = {row["prompt"][1]["content"] for row in records(task / "rl.jsonl")}
    assert len(asked) == N_EXAM and imitated == rewarded and asked.isdisjoint(imitated)


def test_half_of_what_is_imitated_forgets_the_carry_and_what_is_rewarded_is_right(task: Path) -> None:
    gold = {question(terms): terms for terms in sums()}
    said = [(gold[row["messages"][1]["content"]], row["messages"][2]["content"]) for row in records(task / "sft.jsonl")]
    right = sum(text == answer(terms) for terms, text in said)
    assert {text in (answer(terms), answer(terms, carry=False)) for terms, text in said} == {True}
    assert abs(right / len(said) - 0.5) < 0.02
    for row in records(task / "rl.jsonl"):
        assert row["reward_model"]["ground_truth"] == answer(gold[row["prompt"][1]["content"]])


def test_the_exam_is_read_and_judged_by_rule(task: Path) -> None:
    items = list(hle.items_from_rows(records(task / "exam.jsonl")))
    for item, terms in zip(items, split()[1], strict=True):
        for carry in (True, False):
            stated, _ = read_answer(answer(terms, carry=carry))
            assert stated is not None and equivalent(stated, item.answer, item.answer_type) == carry


def test_the_exam_asks_in_the_words_of_the_training(task: Path) -> None:
    spec_prompt, _ = load_prompt(REPOSITORY / "conf" / "demo" / "sums.txt")
    [item, *_] = hle.items_from_rows(records(task / "exam.jsonl"))
    trained = records(task / "sft.jsonl")[0]["messages"]
    asked = hle.TASK.messages(item, spec_prompt)
    assert asked[0] == trained[0] == records(task / "rl.jsonl")[0]["prompt"][0]
    assert asked[1]["role"] == trained[1]["role"] == "user"


def test_prompts_and_answers_fit_the_specs(task: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(task / "model")
    sft = load_spec(SftSpec, REPOSITORY / "conf" / "demo" / "rl-sft.yaml", [])
    ppo = load_spec(PpoSpec, REPOSITORY / "conf" / "demo" / "rl-ppo.yaml", [])
    messages = records(task / "sft.jsonl")[0]["messages"]
    whole = tokenizer.apply_chat_template(messages)["input_ids"]
    asked = tokenizer.apply_chat_template(messages[:2], add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(whole) == tokenizer.apply_chat_template(messages, tokenize=False)
    assert len(whole) <= sft.max_length and len(asked) <= ppo.rollout.max_prompt_length
    assert len(whole) - len(asked) <= ppo.rollout.max_response_length


def test_the_reasons_are_counted_from_the_answers(tmp_path: Path) -> None:
    terms = sums()[:4]
    replies: dict[str, list[str | None]] = {
        "before": [answer(terms[0]), answer(terms[1], carry=False), answer(terms[2], carry=False), None],
        "after": [answer(terms[0]), answer(terms[1]), "Answer: 7", answer(terms[3])],
    }
    for step, texts in replies.items():
        write(tmp_path / step / "predictions.jsonl", [prediction(*pair) for pair in zip(terms, texts, strict=True)])
    write(tmp_path / "prepare" / "exam.jsonl", [exam_row(pair) for pair in terms])
    said = explain(tmp_path)
    assert "After imitation 1 of 4 answers were right, 2 forgot the carry." in said
    assert "After rewards for right sums 3 of 4 answers were right, 0 forgot the carry." in said
    gold = sum(terms[1])
    assert said.endswith(f'For example "{question(terms[1])}": {gold - 10} before, {gold} after.')


def test_an_unfinished_pipeline_has_no_reasons(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="make demo-rl"):
        explain(tmp_path)


def prediction(terms: tuple[int, int], response: str | None) -> dict[str, Any]:
    return {"id": exam_row(terms)["id"], "response": response}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def shortened(folder: Path) -> Path:
    """The shipped pipeline with half of its steps of reinforcement learning, to save a minute."""
    pipeline = yaml.safe_load((REPOSITORY / "conf" / "pipelines" / "demo-rl.yaml").read_text(encoding="utf-8"))
    pipeline["steps"]["rl"]["arguments"].append("max_steps=9")
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    return file


def pipeline(config: Path, folder: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """The table's rows by step, and what was said."""
    done = run("jobs.pipeline", "--config", str(config), "--json", f"run={folder}", timeout=1500)
    assert done.returncode == 0, done.stderr
    return {row["step"]: row for row in json.loads(done.stdout)}, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("cluster")
def test_rewards_raise_the_score_of_the_whole_pipeline_and_a_second_call_does_nothing(tmp_path: Path) -> None:
    config = shortened(tmp_path)
    steps, _ = pipeline(config, tmp_path / "run")
    before, after = (steps[name]["figures"] for name in ("before", "after"))
    assert before["n_judged"] == after["n_judged"] == N_EXAM
    assert before["accuracy_wilson"][1] < after["accuracy_wilson"][0], "the intervals overlap"
    assert "forgot the carry" in explain(tmp_path / "run")

    start = time.monotonic()
    again, said = pipeline(config, tmp_path / "run")
    assert again == steps and said.count("finished already") == len(steps)
    assert time.monotonic() - start < 60
