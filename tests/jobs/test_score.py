"""`python -m jobs.score` on official files, as a user calls it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import score
from orchestrator.errors import SpecError

FIRST = ["accuracy", "accuracy_half_width", "accuracy_wilson", "calibration_error_official", "calibration_error"]
FIRST += ["n_total", "n_answered", "n_judged"]


def dataset(folder: Path, n: int, **changes: Any) -> str:
    rows = [
        {"id": f"q{i}", "question": f"{i}?", "answer": str(i), "answer_type": "exactMatch", "category": "Math"}
        | changes
        for i in range(n)
    ]
    path = folder / "exam.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def entry(correct: Any, confidence: Any = 90, **judge: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    verdict = {"correct_answer": "1", "model_answer": "1", "reasoning": "same", "correct": correct}
    verdict |= {"confidence": confidence} | judge
    return {"model": "org/tiny", "response": "Answer: 1", "usage": usage, "judge_response": verdict}


def judged(folder: Path, entries: Any) -> Path:
    path = folder / "judged.json"
    path.write_text(json.dumps(entries))
    return path


def test_command_prints_json_without_ray(tmp_path: Path) -> None:
    entries = {f"q{i}": entry("yes" if i < 60 else "no") for i in range(240)}
    arguments = ["--judged", str(judged(tmp_path, entries)), "--dataset", dataset(tmp_path, 300)]
    arguments += ["--out", str(tmp_path / "out"), "--json"]
    code = f"import sys; from jobs import score; code = score.main({arguments!r}); assert 'ray' not in sys.modules; "
    code += "assert 'datasets' not in sys.modules; sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")  # of 300 questions 240 have an answer
    figures = json.loads(done.stdout)
    assert list(figures)[: len(FIRST)] == FIRST
    assert figures["accuracy"] == 20.0
    assert figures["accuracy_half_width"] == 4.53
    assert figures["accuracy_wilson"] == pytest.approx([15.87, 24.89], abs=0.011)
    assert (figures["n_total"], figures["n_answered"], figures["n_judged"]) == (300, 240, 240)
    assert figures["calibration_error_official"] is not None
    assert figures["tokens"] == {"prompt_tokens": 2400, "completion_tokens": 1200}

    assert json.loads((tmp_path / "out/metrics.json").read_text()) == figures
    (folder,) = (tmp_path / "out/leaderboard").iterdir()
    assert len((folder / "results.jsonl").read_text().splitlines()) == 240
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["model_name"], summary["overall_accuracy"], summary["num_questions"]) == ("org/tiny", 25.0, 240)


@pytest.mark.parametrize(("n", "official"), [(99, None), (100, 0.0), (199, 0.0)])
def test_official_calibration_of_small_files(tmp_path: Path, n: int, official: float | None) -> None:
    figures = score.score_official(judged(tmp_path, {f"q{i}": entry("no") for i in range(n)}), dataset(tmp_path, n))
    assert figures["calibration_error_official"] == official
    assert figures["calibration_error"] == 90.0


def test_faults_in_the_verdicts_are_counted(tmp_path: Path) -> None:
    unjudged = entry("yes")
    del unjudged["judge_response"]
    silent = entry("yes") | {"response": None, "judge_response": None}
    entries = {
        "q0": entry("yes", 150),
        "q1": entry("yes", "80%"),
        "q2": entry("no", None),
        "q3": entry("maybe"),
        "q4": entry(None),
        "q5": unjudged,
        "q6": silent,
        "other": entry("yes"),
    }
    figures = score.score_official(judged(tmp_path, entries), dataset(tmp_path, 10, category="Astrology"))
    assert (figures["accuracy"], figures["accuracy_judged"]) == (20.0, 66.67)
    counted = ("answered", "judged", "unjudged", "failed", "missing", "unknown_id", "unknown_category")
    assert [figures[f"n_{name}"] for name in counted] == [6, 3, 3, 1, 3, 1, 10]
    assert (figures["n_confidence_out_of_range"], figures["n_confidence_defaulted"]) == (1, 1)
    assert figures["categories"]["Astrology"]["accuracy"] == 20.0


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = judged(tmp_path, {"q0": entry("yes")})
    assert score.main(["--judged", str(path), "--dataset", dataset(tmp_path, 2)]) == 3
    shown = capsys.readouterr().out
    assert "50.0" in shown and "not measured" in shown and "Math" in shown


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a list"),
        ('{"q0": 5}', "the entry 'q0' is a int"),
        ('{"elsewhere": {}}', "none of the 1 ids"),
        ("{}", "none of the 0 ids"),
        ("\udcff", "is not valid JSON"),
    ],
)
def test_bad_judged_files(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "judged.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SpecError) as caught:
        score.score_official(path, dataset(tmp_path, 2))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_usage_ends_in_one_sentence(tmp_path: Path) -> None:
    for arguments in (["--nonsense"], ["--judged", "x.json"], ["--judged", "none.json", "--dataset", "none.jsonl"]):
        done = subprocess.run(
            [sys.executable, "-m", "jobs.score", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_bad_dataset_names_file_and_row(tmp_path: Path) -> None:
    path = dataset(tmp_path, 2, question=None)
    with pytest.raises(SpecError, match=r"exam.jsonl: row 1 \(id 'q0'\): question is null"):
        score.score_official(judged(tmp_path, {"q0": entry("yes")}), path)
