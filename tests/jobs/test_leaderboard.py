"""The official layouts, read back with nothing but `json`."""

import errno
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.exam.figures import outcome
from jobs.exam.leaderboard import write_leaderboard
from jobs.tasks import hle
from jobs.tasks.official_layout import export_judgements, export_predictions
from jobs.tasks.task import Answer, Item, Results
from orchestrator.errors import StorageFailed

ITEMS = {
    name: Item(name, f"{name}?", "42", "exactMatch", category)
    for name, category in (("q0", "Math"), ("q1", "Physics"), ("q2", "Astrology"))
}


def answer(name: str, verdict: str | None, *, sample: int = 0, response: str | None = "Answer: 42") -> Answer:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    prediction: Any = {"id": name, "sample": sample, "status": "ok" if response else "failed", "response": response}
    prediction |= {"usage": usage if response else None, "model": "org/tiny", "reason": None}
    judgement: Any = {"id": name, "sample": sample, "verdict": verdict, "extracted_answer": None, "reasoning": "理由"}
    judgement |= {"confidence": None, "judge": {"model": "rule", "prompt_sha256": "", "sampling": {}}}
    return prediction, judgement if verdict else None


ANSWERS = [answer("q0", "yes"), answer("q1", "unjudged"), answer("q2", "no"), answer("q9", "yes")]


def figures() -> dict[str, Any]:
    return hle.TASK.figures(ITEMS, 1, (outcome(*pair) for pair in ANSWERS))


def results(answers: Any, samples: int = 1, items: Any = ITEMS) -> Results:
    return Results("org/tiny", samples, items, lambda: answers)


def write(folder: Path, answers: Any, figures: dict[str, Any], items: Any = ITEMS) -> Path:
    return write_leaderboard(folder, results(answers, items=items), figures, hle.CATEGORIES)


def test_leaderboard_folder(tmp_path: Path) -> None:
    folder = write(tmp_path, ANSWERS, figures() | {"wall_seconds": 1.5})
    datetime.strptime(folder.name, "%Y_%m_%d_%H_%M_%S")
    assert sorted(path.name for path in folder.iterdir()) == ["results.jsonl", "summary.json"]
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    seed = ["id", "category", "question", "user_prompt", "answer_type", "prediction", "gold", "correct", "judgement"]
    assert [list(row)[:9] for row in rows] == [seed, seed]
    assert [(row["id"], row["correct"], row["prediction"]) for row in rows] == [("q0", 1, "None"), ("q2", 0, "None")]

    summary = json.loads((folder / "summary.json").read_text())
    seed = ["model_name", "overall_accuracy", "accuracy_per_category", "num_questions", "timestamp"]
    assert list(summary)[:5] == seed
    assert (summary["model_name"], summary["overall_accuracy"], summary["num_questions"]) == ("org/tiny", 50.0, 2)
    assert summary["accuracy"] == 33.33, "ours, of all that were asked"
    assert sorted(summary["accuracy_per_category"]) == sorted(hle.CATEGORIES)
    assert summary["accuracy_per_category"]["Math"] == 100.0
    assert summary["accuracy_per_category"]["Physics"] is None, "no verdict there"
    assert summary["accuracy_per_category"]["Chemistry"] is None
    assert datetime.fromisoformat(summary["timestamp"]).tzinfo is None
    assert summary["wall_seconds"] == 1.5 and summary["categories"]["Astrology"]["n_judged"] == 1


def test_older_leaderboards_are_kept(tmp_path: Path) -> None:
    folders = [write(tmp_path, ANSWERS, figures()) for _ in range(5)]
    assert len(set(folders)) == 5 == len(list((tmp_path / "leaderboard").iterdir()))


def test_official_files(tmp_path: Path) -> None:
    answers = [*ANSWERS, answer("q3", None, response=None)]
    (path,) = export_predictions("hle", tmp_path, results(answers))
    assert path == tmp_path / "predictions/hle_tiny.json"
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    expected = {"model": "org/tiny", "response": "Answer: 42", "usage": usage}
    assert json.loads(path.read_text()) == dict.fromkeys(("q0", "q1", "q2", "q9"), expected)

    (path,) = export_judgements("hle", tmp_path, results(answers))
    assert path == tmp_path / "judged/judged_hle_tiny.json"
    entries = json.loads(path.read_text())
    assert list(entries) == ["q0", "q2"]
    verdict = {"correct_answer": "42", "model_answer": "None", "reasoning": "理由", "correct": "yes", "confidence": 100}
    assert entries["q0"] == expected | {"judge_response": verdict}


def test_a_file_a_sample(tmp_path: Path) -> None:
    answers = [answer("q0", "yes"), answer("q0", "no", sample=1), answer("q1", "no", sample=1)]
    first, second, third = export_judgements("hle", tmp_path, results(answers, samples=3))
    assert [path.name for path in (first, second)] == ["judged_hle_tiny.json", "judged_hle_tiny_s1.json"]
    assert list(json.loads(first.read_text())) == ["q0"]
    assert list(json.loads(second.read_text())) == ["q0", "q1"]
    assert json.loads(third.read_text()) == {}


def test_texts_that_are_no_unicode_and_a_failing_source(tmp_path: Path) -> None:
    odd = results([answer("q0", None, response='half \ud83d "x"\n東京')])
    (path,) = export_predictions("hle", tmp_path, odd)
    before = path.read_bytes()
    assert json.loads(before)["q0"]["response"] == 'half \ud83d "x"\n東京'

    def broken() -> Any:
        yield answer("q1", None)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        export_predictions("hle", tmp_path, results(broken()))
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="cannot write"):
        write(tmp_path / "file", ANSWERS, figures())


def test_no_folder_is_left_where_it_cannot_be_filled(tmp_path: Path) -> None:
    before = write(tmp_path / "old", ANSWERS, figures())

    def full_disk() -> Any:
        yield ANSWERS[0]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for run in ("new", "old"):
        with pytest.raises(StorageFailed, match="is full"):
            write(tmp_path / run, full_disk(), figures())
    assert list((tmp_path / "old/leaderboard").iterdir()) == [before]
    assert not (tmp_path / "new/leaderboard").exists()


def test_the_teams_fields_are_of_the_judged_answers(tmp_path: Path) -> None:
    """As the teams' code writes them: 136 right of 1,106 judged is 12.3 %, whatever was asked; categories unrounded."""
    items = {f"q{i}": Item(f"q{i}", "?", "42", "exactMatch", "Math" if i % 3 else "Physics") for i in range(2158)}
    answers = [answer(f"q{i}", "yes" if i < 136 else "no") for i in range(1106)]
    scores = hle.TASK.figures(items, 1, (outcome(*pair) for pair in answers))
    folder = write(tmp_path, answers, scores, items)
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["overall_accuracy"], summary["num_questions"]) == (12.3, 1106)
    assert summary["accuracy"] == 6.3 and summary["n_total"] == 2158
    right = sum(i % 3 > 0 for i in range(136)), sum(i % 3 > 0 for i in range(1106))
    assert summary["accuracy_per_category"]["Math"] == right[0] / right[1] * 100
    assert summary["accuracy_per_category"]["Other"] is None
