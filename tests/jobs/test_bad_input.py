"""What a user gets wrong ends in one sentence and the right exit code, before anything is started."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import call, numbered, records, run, write_exam
from tests.support.scripted_server import ScriptedServer

ROW: dict[str, Any] = {
    "id": "a",
    "question": "What is 2 + 2?",
    "answer": "4",
    "answer_type": "exactMatch",
    "category": "Math",
    "image": "",
}


def exam(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def without(field: str) -> dict[str, Any]:
    return {name: value for name, value in ROW.items() if name != field}


def assert_refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "Traceback" not in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    for part in parts:
        assert part in last


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([without("answer")], ["answer"]),
        ([ROW, ROW], ["'a'"]),
        ([], ["exam.jsonl"]),
        ([ROW | {"question": ["What?"]}], ["question"]),
        ([ROW | {"image": "a.png"}], ["image is 'a.png'", "data URI"]),
        ([{"ID": 1, "Question": "2 + 2?"}], ["no field 'id'", "ID, Question"]),
    ],
    ids=["missing field", "duplicate id", "empty set", "wrong type", "path of an image", "other columns"],
)
def test_bad_data(tmp_path: Path, rows: list[dict[str, Any]], parts: list[str]) -> None:
    assert_refused(call("jobs.evaluate", "model=m", f"dataset={exam(tmp_path, *rows)}"), 2, *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model=m", "dataset=none.jsonl"], ["none.jsonl"]),
        (["model=m", "max_sampels=3"], ["max_sampels", "max_samples"]),
        (["--config", "none.yaml"], ["none.yaml"]),
        (["--nonsense"], ["--nonsense"]),
        (["dataset=x.jsonl"], ["model"]),
    ],
)
def test_bad_arguments(arguments: list[str], parts: list[str]) -> None:
    assert_refused(run("jobs.evaluate", *arguments), 2, *parts)


def test_an_unknown_answer_type_is_told_and_costs_no_run(tmp_path: Path) -> None:
    data = exam(tmp_path, ROW, ROW | {"id": "b", "answer_type": "essay"})
    done = call("jobs.evaluate", "--dry-run", "model=org/name", f"dataset={data}")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 questions have no known answer_type ('essay')" in done.stderr


@pytest.mark.parametrize("kind", ["pipe", "device", "nested"])
def test_hostile_files_end_in_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "exam.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("[" * 100_000)
    assert_refused(run("jobs.evaluate", "model=m", f"dataset={path}", timeout=60), 2, str(path))


def test_dry_run_tells_everything_and_starts_nothing(tmp_path: Path) -> None:
    data = exam(tmp_path, *(ROW | {"id": str(n)} for n in range(7)))
    done = call("jobs.evaluate", "--dry-run", "model=org/name", f"dataset={data}", "samples=2", "temperature=1")
    assert done.returncode == 0, done.stderr
    for part in ("model: org/name", "7 questions × 2 = 14 answers", "org/name on vLLM", "prompts about"):
        assert part in done.stdout


@pytest.mark.usefixtures("cluster")
class TestAgainstServers:
    def test_an_endpoint_that_is_not_there(self, tmp_path: Path) -> None:
        done = call(
            "jobs.evaluate", "model=m", f"dataset={exam(tmp_path, ROW)}", "base_url=http://no-such-host.invalid:9/v1"
        )
        assert_refused(done, 4, "http://no-such-host.invalid:9/v1", "base_url=")

    def test_an_endpoint_with_another_model(self, scripted_server: ScriptedServer, tmp_path: Path) -> None:
        data = exam(tmp_path, ROW | {"question": "What? [always404]"})  # what a server says that has no such model
        job = ["model=other", f"dataset={data}", f"base_url={scripted_server.base_url}", f"run={tmp_path}/run"]
        done = call("jobs.evaluate", *job)
        assert "gives scripted, not model=other: the first call will decide" in done.stderr
        assert_refused(done, 4, "it has no chat model 'other'")

    def test_an_endpoint_whose_v1_was_forgotten(self, scripted_server: ScriptedServer, tmp_path: Path) -> None:
        root = scripted_server.base_url.removesuffix("/v1")
        job = ["model=scripted", f"dataset={exam(tmp_path, ROW)}", f"base_url={root}", f"run={tmp_path}/run"]
        done = call("jobs.evaluate", *job, f"judge_base_url={root}/models")
        assert done.returncode == 0, done.stderr
        [record] = records(tmp_path / "run/predictions.jsonl")
        assert (record["status"], record["endpoint"]) == ("ok", scripted_server.base_url)

    def test_a_judge_that_is_gone_costs_no_prediction(self, scripted_server: ScriptedServer, tmp_path: Path) -> None:
        scripted_server.control("missing")  # 404, as for a model that was switched off
        done = call(
            "jobs.evaluate",
            "model=scripted",
            f"dataset={exam(tmp_path, ROW)}",
            f"base_url={scripted_server.base_url}",
            "judge=o3-mini-2025-01-31",
            f"judge_base_url={scripted_server.base_url}",
            f"run={tmp_path}/run",
        )
        assert_refused(done, 4, "judge=o3-mini-2025-01-31", "switched it off", "judge=rule")
        assert ROW["question"] not in scripted_server.requests()["asked"]

    def test_a_prompt_longer_than_the_context_fails_alone(
        self, scripted_server: ScriptedServer, tmp_path: Path
    ) -> None:
        data = write_exam(tmp_path / "exam.jsonl", ["Question 0 [400] say: 0", *numbered(3)[1:]])
        done = call(
            "jobs.evaluate",
            "model=scripted",
            f"dataset={data}",
            f"base_url={scripted_server.base_url}",
            f"run={tmp_path}/run",
        )
        assert done.returncode == 3, done.stderr
        by_id = {record["id"]: record for record in records(tmp_path / "run/predictions.jsonl")}
        assert [record["status"] for _, record in sorted(by_id.items())] == ["failed", "ok", "ok"]
        assert by_id["0" * 24]["reason"] == "4xx"
        assert "scripted fault 400" in by_id["0" * 24]["detail"]

    def test_a_full_disk_keeps_what_was_recorded(self, small_disk: Path, tmp_path: Path) -> None:
        questions = numbered(120)
        data = write_exam(tmp_path / "exam.jsonl", questions)

        def long_answer(question: str) -> str:
            return "x" * 20_000 + f"\nAnswer: {question.split()[-1]}"

        with ScriptedServer(answer=long_answer) as server:
            job = ["model=scripted", f"dataset={data}", f"base_url={server.base_url}", f"run={small_disk}/run"]
            full = run("jobs.predict", *job)
            assert_refused(full, 4, "is full", "free some space")
            kept = {record["id"] for record in records(small_disk / "run/predictions.jsonl")}
            assert 10 < len(kept) < 120
            subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
            before = dict(server.requests()["asked"])
            again = run("jobs.predict", *job)
            assert again.returncode == 0, again.stderr
            after = server.requests()["asked"]
        lines = records(small_disk / "run/predictions.jsonl")
        assert len(lines) == len({record["id"] for record in lines}) == 120
        assert not [n for n, text in enumerate(questions) if f"{n:024x}" in kept and after[text] > before[text]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
