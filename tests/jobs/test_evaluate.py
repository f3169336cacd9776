"""The exam job end to end on real Ray against the scripted server: faults, kills, resuming, refusals."""

import json
import os
import signal
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import cluster_processes, numbered, records, run, start, wait_for, write_exam
from tests.support.scripted_server import ScriptedServer

pytestmark = pytest.mark.usefixtures("cluster")

# Marker in the question, and what its record must say: status, reason, and requests that the server saw.
FAULTS: list[tuple[str, str, str | None, int]] = [
    ("", "ok", None, 1),
    ("[500x2]", "ok", None, 3),
    ("[503x1]", "ok", None, 2),
    ("[429x2:1]", "ok", None, 3),
    ("[dropx2]", "ok", None, 3),
    ("[badjsonx1]", "ok", None, 2),
    ("[think]", "ok", None, 1),
    ("[slow:5]", "ok", None, 1),
    ("[truncated]", "truncated", "length", 1),
    ("[null]", "truncated", "length", 1),
    ("[loop]", "truncated", "repetition", 1),
    ("[empty]", "failed", "empty", 1),
    ("[400]", "failed", "4xx", 1),
    ("[hang]", "failed", "deadline", 3),
    ("[judge:malformed]", "ok", None, 1),
    ("[judge:truncated]", "ok", None, 1),
    ("[judge:500x1]", "ok", None, 1),
    ("[judge:never]", "ok", None, 1),
    ("[judge:over]", "ok", None, 1),
]


def arguments(server: ScriptedServer, exam: Path, run_folder: Path, *more: str) -> list[str]:
    return [
        f"dataset={exam}",
        f"base_url={server.base_url}",
        f"model={server.model}",
        f"run={run_folder}",
        *more,
    ]


def llm_judge(server: ScriptedServer) -> list[str]:
    return [f"judge={server.model}", f"judge_base_url={server.base_url}"]


class DiskWatch(threading.Thread):
    """How long after its end each answer appeared in the log."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.delays, self.ended = path, dict[str, float](), threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            now = time.time()
            for record in records(self.path):
                finished = datetime.fromisoformat(record["started_at"]).timestamp() + record["seconds"]
                self.delays.setdefault(record["id"], now - finished)
            time.sleep(0.05)


def test_every_fault_ends_in_the_right_record_at_once(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    questions = [f"Question {n} {marker} say: {n}" for n, (marker, *_) in enumerate(FAULTS)]
    exam = write_exam(tmp_path / "exam.jsonl", questions)
    folder = tmp_path / "run"
    watch = DiskWatch(folder / "predictions.jsonl")
    watch.start()
    done = run(
        "jobs.evaluate",
        *arguments(scripted_server, exam, folder, *llm_judge(scripted_server), "request_timeout=7"),
    )
    watch.ended.set()
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr

    predictions = {int(record["id"], 16): record for record in records(folder / "predictions.jsonl")}
    assert len(records(folder / "predictions.jsonl")) == len(FAULTS)
    asked = scripted_server.requests()["asked"]
    for number, (marker, status, reason, requests) in enumerate(FAULTS):
        record = predictions[number]
        assert (marker, record["status"], record["reason"]) == (marker, status, reason)
        assert (marker, asked[questions[number]]) == (marker, requests)
    think = next(n for n, fault in enumerate(FAULTS) if fault[0] == "[think]")
    assert predictions[think]["reasoning"] == "let me see"
    assert max(watch.delays.values()) < 1.0, "a finished answer waited for its neighbours"

    verdicts = {int(record["id"], 16): record for record in records(folder / "judgements.jsonl")}
    failed = {n for n, fault in enumerate(FAULTS) if fault[1] == "failed"}
    assert set(verdicts) == set(range(len(FAULTS))) - failed
    by_marker = {fault[0]: verdicts.get(n) for n, fault in enumerate(FAULTS)}
    assert by_marker["[judge:never]"]["verdict"] == "unjudged"  # type: ignore[index]
    assert by_marker["[judge:never]"]["reason"] == "malformed"  # type: ignore[index]
    assert all(record["verdict"] in ("yes", "no") for n, record in verdicts.items() if FAULTS[n][0] != "[judge:never]")

    figures = json.loads((folder / "metrics.json").read_text())
    right = sum(record["verdict"] == "yes" for record in verdicts.values())
    assert figures["n_total"] == len(FAULTS)
    assert figures["accuracy"] == round(100 * right / len(FAULTS), 2)
    assert (figures["n_failed"], figures["n_truncated"], figures["n_unjudged"]) == (3, 3, 1)
    assert figures["n_confidence_out_of_range"] == 1
    assert_official_layout(folder, figures, scripted_server.model)


def test_one_slow_thinker_holds_nobody_up(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", ["Question 0 [slow:20] say: 0", *numbered(40)[1:]])
    folder = tmp_path / "run"
    watch = DiskWatch(folder / "predictions.jsonl")
    watch.start()
    job = start("jobs.evaluate", *arguments(scripted_server, exam, folder, *llm_judge(scripted_server)))
    wait_for(lambda: len(records(folder / "judgements.jsonl")) == 39, 60, "verdicts on the fast ones")
    assert len(records(folder / "predictions.jsonl")) == 39  # the slow one thinks on; judging did not wait for it
    _, err = job.communicate(timeout=60)
    watch.ended.set()
    assert job.returncode == 0, err
    assert len(watch.delays) == 40 and max(watch.delays.values()) < 1.0


def assert_official_layout(folder: Path, figures: dict[str, Any], model: str) -> None:
    predictions = json.loads((folder / f"exports/predictions/hle_{model}.json").read_text())
    judged = json.loads((folder / f"exports/judged/judged_hle_{model}.json").read_text())
    assert all({"model", "response", "usage"} <= entry.keys() for entry in predictions.values())
    assert len(judged) == figures["n_judged"]
    [board] = (folder / "leaderboard").iterdir()
    summary = json.loads((board / "summary.json").read_text())
    assert list(summary)[:5] == [
        "model_name",
        "overall_accuracy",
        "accuracy_per_category",
        "num_questions",
        "timestamp",
    ]
    assert len((board / "results.jsonl").read_text().splitlines()) == figures["n_judged"]


def test_a_killed_driver_loses_nothing_and_asks_nothing_twice(tmp_path: Path) -> None:
    with ScriptedServer(latency=2.0) as server:  # slow, so that the second job comes while the first is at work
        questions = numbered(200)
        exam = write_exam(tmp_path / "exam.jsonl", questions)
        folder = tmp_path / "run"
        job = arguments(server, exam, folder, "num_workers=8")
        first = start("jobs.evaluate", *job)
        wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 40, 120, "the first 40 answers")

        second = run("jobs.evaluate", *job)
        assert second.returncode == 2
        assert f"is being written by another job (pid {first.pid}" in second.stderr
        assert "Traceback" not in second.stderr

        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        server.latency = 0.1
        recorded = {int(record["id"], 16) for record in records(folder / "predictions.jsonl")}
        before = Counter(server.requests()["asked"])
        again = run("jobs.evaluate", *job)
        assert again.returncode == 0, again.stderr
        after = Counter(server.requests()["asked"])
        asked_again = {n for n, text in enumerate(questions) if after[text] > before[text]}
        assert not asked_again & recorded
        ids = [int(record["id"], 16) for record in records(folder / "predictions.jsonl")]
        assert sorted(ids) == list(range(200))
        assert len(records(folder / "judgements.jsonl")) == 200

        assert run("jobs.evaluate", *job).returncode == 0  # finished: nothing is asked, nothing judged
        assert Counter(server.requests()["asked"]) == after
        assert len(records(folder / "judgements.jsonl")) == 200


def test_a_killed_batching_actor_loses_nothing(tmp_path: Path) -> None:
    with ScriptedServer(latency=0.3) as server:
        questions = numbered(150)
        exam = write_exam(tmp_path / "exam.jsonl", questions)
        folder = tmp_path / "run"
        job = start("jobs.evaluate", *arguments(server, exam, folder, *llm_judge(server), "num_workers=8"))
        wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 40, 120, "the first 40 answers")
        actors = cluster_processes("ray::MapWorker")
        assert len(actors) == 2  # one predicts, one judges
        for actor in actors:
            actor.kill()
        recorded = {int(record["id"], 16) for record in records(folder / "predictions.jsonl")}
        before = Counter(server.requests()["asked"])
        _, err = job.communicate(timeout=200)
        assert job.returncode == 0, err
        after = Counter(server.requests()["asked"])
        assert not {n for n, text in enumerate(questions) if after[text] > before[text] + 1 and n in recorded}
        ids = [int(record["id"], 16) for record in records(folder / "predictions.jsonl")]
        assert sorted(ids) == list(range(150))
        verdicts = {int(record["id"], 16) for record in records(folder / "judgements.jsonl")}
        assert verdicts == set(range(150))


def test_several_samples_give_avg_and_pass_at_k(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", numbered(6))
    folder = tmp_path / "run"
    job = arguments(scripted_server, exam, folder, "samples=3", "temperature=0.7", "--json")
    done = run("jobs.evaluate", *job)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["n_total"] == 18
    assert (figures["avg_at_k"], figures["pass_at_k"]) == (66.67, 66.67)  # the server always says the same
    assert set(scripted_server.requests()["asked"].values()) == {3}
    assert (folder / "exports/predictions/hle_scripted_s2.json").exists()


def test_a_new_spec_asks_again_only_what_it_may_change(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    questions = [*numbered(4), "Question 4 [truncated] say: 4", "Question 5 [empty] say: 5"]
    exam = write_exam(tmp_path / "exam.jsonl", questions)
    folder = tmp_path / "run"
    assert run("jobs.predict", *arguments(scripted_server, exam, folder)).returncode == 3
    assert set(scripted_server.requests()["asked"].values()) == {1}
    run("jobs.predict", *arguments(scripted_server, exam, folder, "max_completion_tokens=99"))
    assert [scripted_server.requests()["asked"][text] for text in questions] == [1, 1, 1, 1, 2, 2]
    run("jobs.predict", *arguments(scripted_server, exam, folder, "max_completion_tokens=99", "temperature=0.5"))
    assert [scripted_server.requests()["asked"][text] for text in questions] == [2, 2, 2, 2, 3, 3]
    judged = run("jobs.judge", *arguments(scripted_server, exam, folder, "max_completion_tokens=99", "temperature=0.5"))
    assert judged.returncode == 3, judged.stderr
    assert len(records(folder / "judgements.jsonl")) == 5
    scored = run(
        "jobs.score", *arguments(scripted_server, exam, folder, "max_completion_tokens=99", "temperature=0.5"), "--json"
    )
    assert scored.returncode == 3, scored.stderr
    assert json.loads(scored.stdout)["n_judged"] == 5


def test_an_official_file_from_elsewhere_is_judged(scripted_server: ScriptedServer, tmp_path: Path) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", numbered(8))
    file, out = tmp_path / "hle_theirs.json", tmp_path / "out"
    entries = {f"{n:024x}": {"model": "org/theirs", "response": f"Thus\nAnswer: {n}", "usage": {}} for n in range(6)}
    file.write_text(json.dumps(entries | {f"{6:024x}": {"model": "org/theirs", "response": "", "usage": {}}}))
    job = ["--predictions", str(file), "--dataset", str(exam), f"out={out}", *llm_judge(scripted_server)]
    done = run("jobs.judge", *job, "--json")
    assert done.returncode == 3, done.stderr  # one has no text, one is missing
    figures = json.loads(done.stdout)
    counted = [figures[f"n_{name}"] for name in ("total", "answered", "failed", "missing", "judged", "unjudged")]
    assert counted == [8, 6, 1, 1, 6, 0]
    assert figures["accuracy"] == 50.0  # 1, 2, 4 and 5 of 8 are right, as written by `write_exam`

    official = json.loads((out / "exports/judged/judged_hle_theirs.json").read_text())
    assert list(official) == list(entries)
    assert set(official[f"{1:024x}"]["judge_response"]) == {
        "correct_answer",
        "model_answer",
        "reasoning",
        "correct",
        "confidence",
    }
    scored = run("jobs.score", "--judged", str(out / "exports/judged/judged_hle_theirs.json"), "--dataset", str(exam))
    assert scored.returncode == 3 and "50.00 %" in scored.stdout

    entries[f"{6:024x}"] = {"model": "org/theirs", "response": "So\nAnswer: 6", "usage": {}}
    entries[f"{7:024x}"] = {"model": "org/theirs", "response": "So\nAnswer: 7", "usage": {}}
    file.write_text(json.dumps(entries))
    again = run("jobs.judge", *job)
    assert again.returncode == 0, again.stderr
    assert len(records(out / "judgements.jsonl")) == 8, "only what was new was judged"
    asked = scripted_server.requests()["asked"]
    assert all("[correct_answer]" in text for text in asked), "the model itself is asked nothing"
    assert max(count for text, count in asked.items() if "Question" in text) == 1, "and the judge nothing twice"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_endpoint_that_is_gone_for_good_ends_the_job_and_fails_no_item(tmp_path: Path) -> None:
    with ScriptedServer(latency=0.5) as server:
        exam = write_exam(tmp_path / "exam.jsonl", numbered(200))
        folder = tmp_path / "run"
        job = arguments(server, exam, folder, "num_workers=8")
        first = start("jobs.evaluate", *job)
        wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 20, 120, "20 answers")
        server.control("refuse")
        _, err = first.communicate(timeout=240)
        assert first.returncode == 4, err
        assert "cannot be used: no answer for" in err and "Traceback" not in err
        kept = records(folder / "predictions.jsonl")
        assert {record["status"] for record in kept} == {"ok"}
        server.control("ok")
        server.latency = 0.0
        again = run("jobs.evaluate", *job)
        assert again.returncode == 0, again.stderr
        assert sorted(record["id"] for record in records(folder / "predictions.jsonl")) == [
            f"{n:024x}" for n in range(200)
        ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_job_says_so_and_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    with ScriptedServer(latency=1.0) as server:
        exam = write_exam(tmp_path / "exam.jsonl", numbered(60))
        folder = tmp_path / "run"
        job = arguments(server, exam, folder, "num_workers=4")
        first = start("jobs.evaluate", *job)
        wait_for(lambda: len(records(folder / "predictions.jsonl")) >= 4, 90, "4 answers")
        first.send_signal(number)
        _, err = first.communicate(timeout=60)
        assert first.returncode == 130, err
        assert "run the same command to resume" in err and "Traceback" not in err
        kept = len(records(folder / "predictions.jsonl"))
        server.latency = 0.0
        again = run("jobs.evaluate", *job)
        assert again.returncode == 0 and f"{kept} recorded already" in again.stderr, again.stderr
