"""A task that supervised training cannot learn from its data and reinforcement learning can: sums whose ones carry.

Half of the conversations to imitate forget the carry (47 + 38 = 75), and nothing in a question says which half it is
in. So a model that imitates them well is right about every second time. A reward for right sums separates the two.
The questions of the exam are in neither training set.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.files import REPOSITORY
from jobs.demo.model import make_tokenizer, save_model
from jobs.tasks.answers import read_answer
from orchestrator.errors import SpecError
from orchestrator.training.data.convert import rl_row

SYSTEM_PROMPT = REPOSITORY / "conf" / "demo" / "sums.txt"
N_EXAM = 128
N_CONVERSATIONS = 10240
VOCAB_SIZE = 300  # bytes, and the few words of a question

RIGHT, FORGOT, OTHER = "right", "forgot", "other"  # ways to answer

Sum = tuple[int, int]


def sums() -> list[Sum]:
    """All sums of two-digit numbers whose ones carry, up to 99."""
    numbers = range(11, 89)
    return [(a, b) for a in numbers for b in numbers if a % 10 + b % 10 > 9 and a + b < 100]


def split(seed: int = 0) -> tuple[list[Sum], list[Sum]]:
    """The sums to train on, and those of the exam."""
    shuffled = random.Random(f"sums {seed}").sample(sums(), len(sums()))
    return shuffled[N_EXAM:], shuffled[:N_EXAM]


def question(terms: Sum) -> str:
    return f"What is {terms[0]}+{terms[1]}?"


def answer(terms: Sum, *, carry: bool = True) -> str:
    """The line that is asked for, right or with the carry forgotten."""
    return f"Answer: {sum(terms) if carry else sum(terms) - 10}"


def read_system_prompt() -> str:
    return SYSTEM_PROMPT.read_text(encoding="utf-8").strip()


def write_task(out: Path, seed: int = 0) -> None:
    """Write `out`/model (not yet trained), sft.jsonl, rl.jsonl and exam.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    training, exam = split(seed)
    rng = random.Random(f"conversations {seed}")
    conversations = [
        {"messages": [*_asked(terms), {"role": "assistant", "content": answer(terms, carry=rng.random() < 0.5)}]}
        for terms in rng.choices(training, k=N_CONVERSATIONS)
    ]
    texts = [f"{question(terms)}\n{answer(terms)}" for terms in training]
    save_model(out / "model", make_tokenizer(texts, read_system_prompt(), VOCAB_SIZE), seed)
    _write(out / "sft.jsonl", conversations)
    _write(out / "rl.jsonl", (_rl_row(terms, index) for index, terms in enumerate(training)))
    _write(out / "exam.jsonl", map(exam_row, exam))


def exam_row(terms: Sum) -> dict[str, Any]:
    """A question with the fields of HLE's rows that decide something."""
    return {
        "id": hashlib.sha256(question(terms).encode()).hexdigest()[:24],
        "question": question(terms),
        "answer": str(sum(terms)),
        "answer_type": "exactMatch",
        "category": "Math",
        "image": "",
    }


def _asked(terms: Sum) -> list[dict[str, str]]:
    return [{"role": "system", "content": read_system_prompt()}, {"role": "user", "content": question(terms)}]


def _rl_row(terms: Sum, index: int) -> dict[str, Any]:
    return rl_row(_asked(terms), answer(terms), "kosen/sums", "train", index)


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def explain(folder: Path) -> str:
    """Why the score of a finished pipeline in `folder` rose, from what the model answered before and after."""
    exam = {row["id"]: row for row in _rows(folder / "prepare" / "exam.jsonl")}
    before, after = (_answers(folder / step, exam) for step in ("before", "after"))
    mended = [identity for identity in exam if (before[identity], after[identity]) == (FORGOT, RIGHT)]
    text = (
        "Half of the conversations that the model imitated forget the carry, and no question tells which. "
        f"After imitation {_count(before, len(exam))}. After rewards for right sums {_count(after, len(exam))}."
    )
    if mended:
        row = exam[mended[0]]
        gold = int(row["answer"])
        text += f' For example "{row["question"]}": {gold - 10} before, {gold} after.'
    return text


def _answers(run: Path, exam: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """How each question of the exam was answered; without an answer, or without one that can be read, it is OTHER."""
    found = dict.fromkeys(exam, OTHER)
    for record in _rows(run / "predictions.jsonl"):
        stated, _ = read_answer(record["response"] or "")
        gold = int(exam[record["id"]]["answer"])
        found[record["id"]] = {str(gold): RIGHT, str(gold - 10): FORGOT}.get(stated or "", OTHER)
    return found


def _count(answers: Mapping[str, str], total: int) -> str:
    kinds = list(answers.values())
    return f"{kinds.count(RIGHT)} of {total} answers were right, {kinds.count(FORGOT)} forgot the carry"


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise SpecError(f"there is no {path}. First: make demo-rl") from None
