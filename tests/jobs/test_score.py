"""`python -m jobs.score` on official files, as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import score
from jobs.exam.official_score import score_official
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
    figures = score_official(judged(tmp_path, {f"q{i}": entry("no") for i in range(n)}), dataset(tmp_path, n))
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
    figures = score_official(judged(tmp_path, entries), dataset(tmp_path, 10, category="Astrology"))
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
        score_official(path, dataset(tmp_path, 2))
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
        score_official(judged(tmp_path, {"q0": entry("yes")}), path)


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "jobs.score", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("correct", "verdict"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("Yes", "yes"),
        ("NO", "no"),
        (" no. ", "no"),
        ("**yes**", "yes"),
        ("yes, it matches", "yes"),
        ("yes: no difference", "yes"),
        ("No - off by one", "no"),
        ("no, the sign differs", "no"),
        ("no (5 is not 6)", "no"),
        ("the answer is yes", "yes"),
        ("never yes", "unjudged"),
        ("only if yes", "unjudged"),
        ("hardly yes", "unjudged"),
        ("right", "yes"),
        ("not correct", "no"),
        (True, "yes"),
        (False, "no"),
        ("unknown", "unjudged"),
        ("not sure", "unjudged"),
        ("cannot tell", "unjudged"),
        ("none", "unjudged"),
        ("undetermined", "unjudged"),
        ("no idea", "unjudged"),
        ("no verdict possible", "unjudged"),
        ("not yes", "unjudged"),
        ("yes/no", "unjudged"),
        ("yes or no", "unjudged"),
        ("no or yes", "unjudged"),
        ("no/yes", "unjudged"),
        ("yes, no", "unjudged"),
        ("yes, but the sign is wrong", "unjudged"),
        ("はい", "yes"),
        ("incorrect", "no"),
        ("yes no", "unjudged"),
        ("yes or no, hard to say", "unjudged"),
        ("eyes", "unjudged"),
        ("know", "unjudged"),
        ("n/a", "unjudged"),
        ("maybe", "unjudged"),
        ("", "unjudged"),
        (None, "unjudged"),
        (["no"], None),
        (0, "unjudged"),
    ],
)
def test_verdicts_are_whole_words(tmp_path: Path, correct: Any, verdict: str | None) -> None:
    figures = score_official(judged(tmp_path, {"q0": entry(correct)}), dataset(tmp_path, 1))
    counted = "yes" if figures["accuracy"] else "no" if figures["n_judged"] else "unjudged"
    assert verdict in (None, counted)
    assert figures["n_judged"] + figures["n_unjudged"] == 1


FAILED_CALL = {"correct": "no", "reasoning": "", "model_answer": "", "confidence": 0, "error": "Connection error."}


@pytest.mark.parametrize(
    ("changes", "counts"),  # answered, failed, judged, unjudged
    [
        ({}, (1, 0, 1, 0)),
        ({"response": ""}, (0, 1, 1, 0)),
        ({"response": " \n"}, (0, 1, 1, 0)),
        ({"response": None, "judge_response": None}, (0, 1, 0, 0)),
        ({"response": 5, "judge_response": None}, (0, 1, 0, 0)),
        ({"judge_response": FAILED_CALL}, (1, 0, 0, 1)),
        ({"judge_response": FAILED_CALL | {"error": {"code": 429}}}, (1, 0, 0, 1)),
        ({"judge_response": FAILED_CALL | {"error": None}}, (1, 0, 1, 0)),
        ({"judge_response": FAILED_CALL | {"error": "", "judge_error": "timed out"}}, (1, 0, 0, 1)),
        ({"error": "Request timed out."}, (1, 0, 0, 1)),
        ({"judge_response": None}, (1, 0, 0, 1)),
        ({"judge_response": "yes"}, (1, 0, 0, 1)),
        ({"judge_response": {}}, (1, 0, 0, 1)),
    ],
)
def test_what_is_no_answer_and_no_verdict(
    tmp_path: Path, changes: dict[str, Any], counts: tuple[int, int, int, int]
) -> None:
    entries = {"q0": entry("no") | changes}
    figures = score_official(judged(tmp_path, entries), dataset(tmp_path, 1))
    assert tuple(figures[f"n_{name}"] for name in ("answered", "failed", "judged", "unjudged")) == counts
    assert figures["accuracy"] == (0.0 if counts[2] else None), "what nobody judged is not measured"


@pytest.mark.parametrize(
    ("entries", "asked", "code"),
    [
        ({"q0": entry("yes"), "q1": entry("no")}, 2, 0),
        ({"q0": entry("yes"), "q1": entry("no"), "other": entry("yes")}, 2, 0),
        ({"q0": entry("yes"), "q1": entry("unknown")}, 2, 3),
        ({"q0": entry("yes"), "q1": entry("no") | {"response": ""}}, 2, 3),
        ({"q0": entry("yes"), "q1": entry("no") | {"judge_response": FAILED_CALL}}, 2, 3),
        ({"q0": entry("yes")}, 2, 3),
        ({"q0": {"response": "Answer: 1", "judge_response": None}}, 1, 3),
        ({"q0": {"model": "m", "response": "Answer: 1", "usage": {}}}, 1, 2),  # a file of predictions
        ({"elsewhere": entry("yes")}, 1, 2),
        ([], 1, 2),
    ],
)
def test_the_exit_code_says_what_is_missing(tmp_path: Path, entries: Any, asked: int, code: int) -> None:
    arguments = ["--judged", str(judged(tmp_path, entries)), "--dataset", dataset(tmp_path, asked)]
    arguments += ["--out", str(tmp_path / "out")]
    if code == SpecError.exit_code:
        with pytest.raises(SpecError):
            score.main(arguments)
        assert not (tmp_path / "out").exists()
    else:
        assert score.main(arguments) == code


def test_a_predictions_file_is_told_what_judges_it(tmp_path: Path) -> None:
    path = judged(tmp_path, {"q0": {"model": "m", "response": "Answer: 1", "usage": {}}})
    with pytest.raises(SpecError, match=r"holds no verdicts: .* jobs.judge --predictions FILE"):
        score_official(path, dataset(tmp_path, 1))


def test_two_entries_of_one_id_are_said_and_two_verdicts_are_none(tmp_path: Path) -> None:
    first, second = json.dumps(entry("yes")), json.dumps(entry("no"))
    both = first.replace('"correct": "yes"', '"correct": "yes", "correct": "no"')
    same = first.replace('"correct": "yes"', '"correct": "yes", "correct": "yes"')
    path = tmp_path / "judged.json"
    path.write_text(f'{{"q0": {first}, "q0": {second}, "q1": {both}, "q2": {same}}}')
    done = command("--judged", path, "--dataset", dataset(tmp_path, 3))
    assert done.returncode == 3 and "1 duplicate id" in done.stdout
    figures = score_official(path, dataset(tmp_path, 3))
    assert (figures["n_duplicate_id"], figures["n_judged"], figures["n_unjudged"]) == (1, 2, 1)
    assert figures["accuracy"] == 33.33, "the last entry of an id counts"


def test_numbers_of_any_length(tmp_path: Path) -> None:
    path = judged(tmp_path, {"q0": entry("yes", 12345), "q1": entry("no", 95.5)})
    path.write_text(path.read_text().replace("12345", "9" * 5000))
    figures = score_official(path, dataset(tmp_path, 2))
    assert (figures["n_judged"], figures["n_confidence_defaulted"]) == (2, 1)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, (10, 5)),
        ({"prompt_tokens": "10", "completion_tokens": "5"}, (10, 5)),
        ({"prompt_tokens": 10.0, "completion_tokens": 5.5}, (10, 5)),
        ({"prompt_tokens": -1, "completion_tokens": True}, (0, 0)),
        ({"prompt_tokens": {"total": 10}, "completion_tokens": [5]}, (0, 0)),
        ({"prompt_tokens": float("nan"), "completion_tokens": 1e300}, (0, 0)),
        ({"prompt_tokens": 2**64 - 1}, (0, 0)),
        ([{"prompt_tokens": 10}], (0, 0)),
        ("15", (0, 0)),
        (None, (0, 0)),
    ],
)
def test_usage_of_any_shape(tmp_path: Path, usage: Any, tokens: tuple[int, int]) -> None:
    figures = score_official(judged(tmp_path, {"q0": entry("yes") | {"usage": usage}}), dataset(tmp_path, 1))
    assert figures["tokens"] == {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}


@pytest.mark.parametrize(
    "category", ["[/bold]x", "[red]x[/red]", "\x1b[31mx\x1b[0m", "x\ny", ":smile:", "\x9b2J", "a\u202eb"]
)
def test_names_from_outside_are_shown_as_text(
    tmp_path: Path, category: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = judged(tmp_path, {"q0": entry("yes")}), dataset(tmp_path, 1, category=category)
    assert score.main(["--judged", str(path), "--dataset", data]) == 0
    shown = capsys.readouterr().out
    escaped = {"\x1b": "\\x1b", "\n": "\\x0a", "\x9b": "\\x9b", "\u202e": "\\u202e"}
    assert "".join(escaped.get(sign, sign) for sign in category) in shown
    assert all(sign.isprintable() or sign == "\n" for sign in shown)
    assert score.main(["--judged", str(path), "--dataset", data, "--json"]) == 0
    shown = capsys.readouterr().out
    assert category in json.loads(shown)["categories"]
    assert all(sign.isprintable() or sign == "\n" for sign in shown)


def test_any_encoding_of_the_output(tmp_path: Path) -> None:
    path, data = judged(tmp_path, {"q0": entry("yes"), "q1": entry("no")}), dataset(tmp_path, 2, category="数学 é 😀")
    for encoding in ("ascii", "latin-1", "shift_jis", "utf-8"):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        table = command("--judged", path, "--dataset", data, env=environment, encoding=encoding)
        assert (table.returncode, table.stderr) == (0, "")
        assert "50.00 %" in table.stdout and ("+/- 69.30" if encoding == "ascii" else "± 69.30") in table.stdout
        shown = command("--judged", path, "--dataset", data, "--json", env=environment, encoding=encoding)
        assert "数学 é 😀" in json.loads(shown.stdout)["categories"]


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    entries = {f"q{i}": entry("yes") for i in range(3000)}
    rows = [
        {"id": f"q{i}", "question": "?", "answer": "1", "answer_type": "exactMatch", "category": f"Category {i}"}
        for i in range(3000)  # so many categories fill more than a pipe
    ]
    data = tmp_path / "exam.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for more in ("--json", ""):
        line = (
            f"{sys.executable} -m jobs.score --judged {judged(tmp_path, entries)} --dataset {data} {more} | head -n 2"
        )
        done = subprocess.run(
            ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (141, "")


def test_the_teams_results_are_a_data_set_too(tmp_path: Path) -> None:
    path, data = judged(tmp_path, {"q0": entry("yes"), "q1": entry("no")}), dataset(tmp_path, 2, answer_type="essay")
    score_official(path, data, tmp_path / "out")
    (results,) = (tmp_path / "out").glob("leaderboard/*/results.jsonl")
    figures = score_official(path, str(results))
    assert (figures["accuracy"], figures["n_total"]) == (50.0, 2)


def test_the_commonest_failure_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {f"q{i}": entry("no") | ({"response": ""} if i else {}) for i in range(4)}
    score.main(["--judged", str(judged(tmp_path, entries)), "--dataset", dataset(tmp_path, 4)])
    assert "3 failed (3 × empty)" in capsys.readouterr().out
