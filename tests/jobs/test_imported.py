"""Official files of predictions as records of a run folder; without Ray. test_evaluate.py judges one."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.exam import imported
from jobs.exam.provenance import begin_session
from jobs.exam.report import Records
from orchestrator.errors import SpecError
from tests.support.harness import numbered, records, write_exam


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_exam(tmp_path / "exam.jsonl", numbered(6))


def answers(*numbers: int, text: str = "Answer: {}", model: str | None = "org/tiny") -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {
        f"{n:024x}": {"response": text.format(n), "usage": usage} | ({"model": model} if model else {}) for n in numbers
    }


def bring(entries: Any, *more: str, name: str = "hle_tiny.json") -> Any:
    """Import a file as the command does, and the folder's scoring side of it."""
    text = entries if isinstance(entries, str) else json.dumps(entries)
    Path(name).write_text(text, encoding="utf-8")
    command, file = imported.parse_import(["--predictions", name, "--dataset", "exam.jsonl", *more])
    imported.import_predictions(command, file)
    return command


def recorded(command: Any) -> dict[int, str | None]:
    """What is scored, once a session of judging stands in the folder."""
    served = imported.unknown_source(command.spec)
    begin_session(Path(command.spec.run_name), command.spec, command.items, served=served, judge=None, gpu=None)
    found = Records(Path(command.spec.run_name), command.spec, command.items).answers()
    return {int(prediction["id"], 16): prediction["response"] for prediction, _ in found}


def test_answers_are_imported_once_and_changed_ones_again(tmp_path: Path) -> None:
    command = bring(answers(0, 1, 2))
    assert command.spec.model == "org/tiny" and command.spec.judge == "rule"
    folder = tmp_path / "runs/judged_hle_tiny"
    assert command.spec.run_name == str(folder)
    assert recorded(command) == {0: "Answer: 0", 1: "Answer: 1", 2: "Answer: 2"}
    bring(answers(0, 1, 2))
    assert len(records(folder / "predictions.jsonl")) == 3, "nothing new"
    command = bring(answers(0, 1, 2, 3) | answers(1, text="Answer: x"))
    assert recorded(command) == {0: "Answer: 0", 1: "Answer: x", 2: "Answer: 2", 3: "Answer: 3"}
    assert len(records(folder / "predictions.jsonl")) == 5
    command = bring(answers(0, 1, 2, 3))
    assert recorded(command)[1] == "Answer: 1"


def test_where_the_answers_go(tmp_path: Path) -> None:
    for more in (["--out", "there"], ["out=there"], ["run=" + str(tmp_path / "there")]):
        assert bring(answers(0), *more).spec.run_name == str(tmp_path / "there")


@pytest.mark.parametrize(
    ("entry", "status", "response"),
    [
        ({"response": "Answer: 1"}, "ok", "Answer: 1"),
        ({"response": "half \ud83d"}, "ok", "half ?"),
        ({"response": ""}, "failed", None),
        ({"response": " \n"}, "failed", None),
        ({"response": None}, "failed", None),
        ({"response": ["x"]}, "failed", None),
        ({}, "failed", None),
        ({"response": "x", "usage": {"prompt_tokens": 2**70, "completion_tokens": "5"}}, "ok", "x"),
        ({"response": "x", "usage": "15", "model": 5}, "ok", "x"),
        ({"response": "x", "judge_response": {"correct": "yes"}}, "ok", "x"),
    ],
)
def test_entries_of_every_shape(tmp_path: Path, entry: Any, status: str, response: str | None) -> None:
    command = bring({f"{1:024x}": entry}, "model=m")
    (record,) = records(Path(command.spec.run_name) / "predictions.jsonl")
    assert (record["status"], record["response"]) == (status, response)
    assert recorded(command) == {1: response}


@pytest.mark.parametrize(
    ("entries", "model"),
    [
        (answers(0, model="a/b"), "a/b"),
        (answers(0, model=None), "tiny"),
        (answers(0, model="a") | answers(1, model=None), "a"),
        (answers(0, model="a") | answers(1, model="b"), None),
    ],
)
def test_the_models_name(entries: Any, model: str | None) -> None:
    if model is None:
        with pytest.raises(SpecError, match=r"several models \(a, b\). Give model="):
            bring(entries)
        assert bring(entries, "model=both").spec.model == "both"
    else:
        assert bring(entries).spec.model == model


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("{", "is not valid JSON"),
        ([], "holds a list"),
        ({"q": 5}, "the entry 'q' is a int"),
        ({}, "none of the 0 ids"),
        ({"elsewhere": {"response": "x"}}, "none of the 1 ids"),
    ],
)
def test_files_that_are_none(tmp_path: Path, entries: Any, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        bring(entries)
    assert not (tmp_path / "runs").exists()


def test_what_is_passed_over_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    text = json.dumps(answers(0, 1) | {"elsewhere": {"response": "x"}})
    bring(text[:-1] + ', "' + f"{0:024x}" + '": {"response": "Answer: 9"}}')
    said = capfd.readouterr().err
    assert "2 answers of hle_tiny.json, 2 of them new; 1 ids that are not asked" in said
    assert "1 ids came twice, the last counts" in said


def test_a_folder_of_other_answers_is_refused(tmp_path: Path) -> None:
    command = bring(answers(0, 1), "out=there")
    with pytest.raises(SpecError, match="lacks, of another file"):
        bring(answers(1, 2), "out=there", name="hle_other.json")
    log = Path(command.spec.run_name) / "predictions.jsonl"
    log.write_text(log.read_text().replace("file:", "http://"))
    with pytest.raises(SpecError, match="holds the answers of a run"):
        bring(answers(0, 1), "out=there")


def test_arguments(tmp_path: Path) -> None:
    assert imported.is_wanted(["--predictions=x"]) and not imported.is_wanted(["run=x", "--json"])
    with pytest.raises(SpecError, match="give --predictions FILE and --dataset FILE"):
        imported.parse_import(["--predictions", "x.json", "dataset=exam.jsonl"])
    with pytest.raises(SpecError, match="there is no predictions file"):
        imported.parse_import(["--predictions", "x.json", "--dataset", "exam.jsonl"])
    Path("hle_tiny.json").write_text(json.dumps(answers(0, 1)))
    line = ["--predictions", "hle_tiny.json", "--dataset", "exam.jsonl", "--dry-run", "--json", "max_samples=1"]
    command, file = imported.parse_import(line)
    assert command.dry_run and command.as_json and len(command.items) == 1
    assert "1 of 2 in hle_tiny.json, to 1 questions asked" in imported.describe_import(command, file)
    assert not (tmp_path / "runs").exists()
