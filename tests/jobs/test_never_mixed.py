"""One score, one kind of answer: what changes between two calls on a run folder is asked or judged again."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import call, numbered, records, write_exam
from tests.support.scripted_server import ScriptedServer
from tests.support.tiny_model import make_tiny_model

pytestmark = pytest.mark.usefixtures("cluster")


def evaluate(folder: Path, exam: Path, server: ScriptedServer, *more: str, code: int = 0) -> dict[str, Any]:
    job = [f"dataset={exam}", f"base_url={server.base_url}", f"model={server.model}", f"run={folder}", *more]
    done = call("jobs.evaluate", *job, "--json")
    assert done.returncode == code, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures | {"said": done.stderr}


def rewrite(exam: Path, **fields: Any) -> None:
    rows = [json.loads(line) | fields for line in exam.read_text().splitlines()]
    exam.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_corrected_reference_is_judged_anew(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(6)), tmp_path / "run"
    judge = [f"judge={scripted_server.model}", f"judge_base_url={scripted_server.base_url}"]
    assert evaluate(folder, exam, scripted_server)["accuracy"] == 66.67
    assert evaluate(folder, exam, scripted_server, *judge)["accuracy"] == 66.67
    asked = len(records(folder / "predictions.jsonl"))
    rewrite(exam, answer="nobody says this")
    assert evaluate(folder, exam, scripted_server)["accuracy"] == 0
    assert evaluate(folder, exam, scripted_server, *judge)["accuracy"] == 0
    assert len(records(folder / "predictions.jsonl")) == asked  # the questions are as they were


def test_a_changed_question_is_asked_and_judged_anew(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam, folder = write_exam(tmp_path / "exam.jsonl", ["Question 1 say: 1"]), tmp_path / "run"
    rewrite(exam, answer="1")
    assert evaluate(folder, exam, scripted_server)["accuracy"] == 100
    rewrite(exam, question="Another question, say: 1", answer="2")  # the answer's text stays
    assert evaluate(folder, exam, scripted_server)["accuracy"] == 0
    assert len(records(folder / "predictions.jsonl")) == len(records(folder / "judgements.jsonl")) == 2


def test_another_server_is_asked_itself_and_it_is_said(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(3)), tmp_path / "run"
    evaluate(folder, exam, scripted_server)
    with ScriptedServer(answer=lambda _: "Answer: wrong") as other:
        second = evaluate(folder, exam, other)
        assert second["accuracy"] == 0 and "do not count: served.server.base_url" in second["said"]
        assert sum(other.requests()["asked"].values()) == 3
    assert evaluate(folder, exam, scripted_server)["accuracy"] == 66.67  # the first one's answers are there still
    assert len(records(folder / "predictions.jsonl")) == 6


def test_what_was_recorded_is_found_again(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    """Three temperatures and three judges by turns: nothing is paid twice, and scoring alone finds each of them."""
    exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(3)), tmp_path / "run"
    for temperature in (0.1, 0.2, 0.1):
        evaluate(folder, exam, scripted_server, f"temperature={temperature}")
    assert len(records(folder / "predictions.jsonl")) == 6
    at = [f"judge_base_url={scripted_server.base_url}", "temperature=0.1"]
    prompt = tmp_path / "second.txt"
    prompt.write_text("[correct_answer]: {correct_answer}\n{question}\n{response}")
    first, second = [*at, "judge=scripted"], [*at, "judge=scripted", f"judge_prompt={prompt}"]
    for judge in (first, second, first):
        evaluate(folder, exam, scripted_server, *judge)
    model_verdicts = [one for one in records(folder / "judgements.jsonl") if one["judge"]["model"] == "scripted"]
    assert len(model_verdicts) == 6
    job = [f"dataset={exam}", f"base_url={scripted_server.base_url}", "model=scripted", f"run={folder}"]
    for judge in (first, second):
        scored = call("jobs.score", *job, *judge, "--json")
        assert scored.returncode == 0, scored.stderr
        assert json.loads(scored.stdout)["n_judged"] == 3


def test_a_folder_can_be_scored_and_judged_when_its_server_is_gone(tmp_path: Path) -> None:
    exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(3)), tmp_path / "run"
    with ScriptedServer() as server:
        evaluate(folder, exam, server)
    assert evaluate(folder, exam, server)["accuracy"] == 66.67
    assert (
        call(
            "jobs.score", f"dataset={exam}", f"base_url={server.base_url}", "model=scripted", f"run={folder}"
        ).returncode
        == 0
    )


def test_records_say_how_they_came_to_be(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(3)), tmp_path / "run"
    figures = evaluate(folder, exam, scripted_server, "temperature=0.5")
    lines = records(folder / "specs.jsonl")
    evaluate(folder, exam, scripted_server, "temperature=0.6")
    assert [line["spec"]["temperature"] for line in records(folder / "specs.jsonl")] == [0.5, 0.6]
    made = [record["provenance"] for record in records(folder / "predictions.jsonl")[:3]]
    assert {one["session"] for one in made} == {lines[0]["id"]}
    told = figures["provenance"]
    assert told["kosen"] == lines[0]["versions"]["kosen"] == made[0]["kosen"]
    assert told["ray"] and told["rows"] == 3 and told["data"] == lines[0]["data"]["digest"]
    assert told["sampling"]["sent"]["temperature"] == 0.5
    assert told["judge"]["model"] == "rule" and told["judge"]["served"]
    assert told["n_unknown"] == 0 and not told["notes"]


def test_records_of_an_earlier_version_count_and_it_is_said(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam, folder = write_exam(tmp_path / "exam.jsonl", numbered(3)), tmp_path / "run"
    evaluate(folder, exam, scripted_server)
    as_before(folder, exam, scripted_server)
    asked = scripted_server.requests()["asked"]
    job = [f"dataset={exam}", f"base_url={scripted_server.base_url}", "model=scripted", f"run={folder}"]
    scored = call("jobs.score", *job, "--json")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["accuracy"] == 66.67
    figures = evaluate(folder, exam, scripted_server)
    assert figures["accuracy"] == 66.67 and scripted_server.requests()["asked"] == asked
    assert figures["provenance"]["n_unknown"] == 3
    assert "earlier version" in figures["provenance"]["notes"][0]


def as_before(folder: Path, exam: Path, server: ScriptedServer) -> None:
    """As earlier versions wrote them: no provenance, no reference, a fingerprint of name, messages and sampling."""
    from jobs.exam.requests import Requests, load_items
    from jobs.exam.spec import ExamSpec

    spec = ExamSpec(model=server.model, dataset=str(exam), base_url=server.base_url)
    legacy = {item.id: Requests(spec).wanted(item)[0].legacy for item in load_items(spec)}
    (folder / "specs.jsonl").unlink()
    for name, dropped in (("predictions", {"provenance"}), ("judgements", {"provenance", "reference"})):
        lines = []
        for record in records(folder / f"{name}.jsonl"):
            record = {key: value for key, value in record.items() if key not in dropped}
            if name == "predictions":
                record["fingerprint"] = legacy[record["id"]]
            else:
                del record["judge"]["served"]
            lines.append(json.dumps(record) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))


@pytest.mark.slow
def test_other_weights_under_one_name_are_asked_themselves(tmp_path: Path) -> None:
    exam, folder = write_exam(tmp_path / "exam.jsonl", ["Question 1 say: 1"]), tmp_path / "run"
    model = make_tiny_model(tmp_path / "model")
    job = [f"dataset={exam}", f"model={model}", f"run={folder}", "max_completion_tokens=8"]

    def answers(*more: str) -> int:
        done = call("jobs.predict", *job, *more)
        assert done.returncode == 0, done.stderr
        return len(records(folder / "predictions.jsonl"))

    assert answers() == 1
    assert answers() == 1
    assert answers("serving.max_num_seqs=3") == 1  # places the work only
    make_tiny_model(model, seed=1)
    assert answers() == 2
    assert answers('serving.engine_kwargs.override_generation_config={"top_k":1}') == 3
    made = [record["provenance"] for record in records(folder / "predictions.jsonl")]
    assert len({one["model"] for one in made}) == 2
    assert made[2]["sampling"]["defaults"] == {"top_k": 1}
    assert made[0]["vllm"] and made[0]["transformers"] and made[0]["gpu"] == "cpu"
