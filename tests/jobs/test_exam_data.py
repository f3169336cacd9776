"""The requests that a spec leads to: file formats, images, thinking off, budgets and judges as each API names them."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.exam.requests import Requests, load_items, row_of
from jobs.exam.spec import ExamSpec, judge_endpoint_spec, judge_identity, request_options
from orchestrator.spec import load_spec
from tests.support.harness import numbered, run, write_exam
from tests.support.scripted_server import ScriptedServer

IMAGE = "data:image/png;base64,iVBORw0KGgo="
ROWS: list[dict[str, Any]] = [
    {
        "id": f"q{number}",
        "question": f"Question {number}, in words: {{x}} 漢字",
        "answer": str(number),
        "answer_type": "exactMatch",
        "category": "Math" if number % 2 else "Physics",
        "image": IMAGE if number == 3 else "",
        "rationale": "not read",
    }
    for number in range(6)
]


def spec(*overrides: str) -> ExamSpec:
    return load_spec(ExamSpec, None, ["model=m", *overrides])


def write(path: Path) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_items(tmp_path: Path, suffix: str) -> None:
    items = load_items(spec(f"dataset={write(tmp_path / f'exam.{suffix}')}"))
    assert [item.id for item in items] == ["q0", "q1", "q2", "q4", "q5"]  # text only by default
    assert items[0].question == ROWS[0]["question"]


def test_selection_comes_before_the_first_so_many(tmp_path: Path) -> None:
    data = f"dataset={write(tmp_path / 'exam.jsonl')}"
    assert [i.id for i in load_items(spec(data, "categories=[Math]", "max_samples=2"))] == ["q1", "q5"]
    assert [i.id for i in load_items(spec(data, "categories=[Math]", "max_samples=2", "multimodal=true"))] == [
        "q1",
        "q3",
    ]
    assert [i.id for i in load_items(spec(data, "question_ids=[q4,q0]"))] == ["q0", "q4"]


def test_images_travel_with_their_question(tmp_path: Path) -> None:
    request = spec(f"dataset={write(tmp_path / 'exam.jsonl')}", "multimodal=true")
    requests = Requests(request)
    item = next(item for item in load_items(request) if item.id == "q3")
    content = requests.question(row_of(item) | {"sample": 0}).messages[1]["content"]
    assert content == [
        {"type": "text", "text": item.question},
        {"type": "image_url", "image_url": {"url": IMAGE}},
    ]


def test_options_are_named_as_each_api_wants_them() -> None:
    off = {"enable_thinking": False, "thinking": False}
    assert request_options(spec()) == {}
    assert request_options(spec("reasoning=false")) == {"chat_template_kwargs": off}
    assert request_options(spec("max_completion_tokens=9", "temperature=0.6")) == {"max_tokens": 9, "temperature": 0.6}
    assert request_options(spec("provider=openai", "max_completion_tokens=9")) == {"max_completion_tokens": 9}
    assert request_options(spec("serving.chat_template_kwargs.effort=high"))["chat_template_kwargs"] == {
        "effort": "high"
    }


@pytest.mark.parametrize(
    ("overrides", "url", "key"),
    [
        ("judge=gpt-x", "https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("judge=j judge_base_url=http://localhost:1/v1/", "http://localhost:1/v1", None),
        ("judge=j judge_base_url=http://localhost:1/v1 judge_api_key_env=MINE", "http://localhost:1/v1", "MINE"),
        (
            "judge=j judge_base_url=http://localhost:1/v1 judge_provider=openai",
            "http://localhost:1/v1",
            "OPENAI_API_KEY",
        ),
        ("judge=j judge_provider=deepinfra", "https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY"),
        ("judge=j judge_provider=ollama", "http://localhost:11434/v1", None),
    ],
)
def test_a_key_goes_only_where_it_belongs(overrides: str, url: str, key: str | None) -> None:
    wanted = judge_endpoint_spec(spec(*overrides.split()))
    endpoint = wanted and wanted.endpoint()
    assert endpoint and (endpoint.base_url, endpoint.key_name) == (url, key)


def test_the_rule_and_a_deployed_judge_have_no_address() -> None:
    assert judge_endpoint_spec(spec()) is None
    wanted = judge_endpoint_spec(spec("judge=org/judge", "judge_provider=vllm"))
    assert wanted and wanted.endpoint() is None


def test_the_judges_prompt_is_part_of_its_identity(tmp_path: Path) -> None:
    prompt = tmp_path / "mine.txt"
    prompt.write_text("Q {question} R {response} A {correct_answer}: right?")
    ours = judge_identity(spec("judge=j"))
    mine = judge_identity(spec("judge=j", f"judge_prompt={prompt}"))
    assert ours["prompt_sha256"] != mine["prompt_sha256"]
    assert len(mine["prompt_sha256"]) == 64


def test_a_key_reaches_its_server_and_no_file(cluster: dict[str, Any], tmp_path: Path) -> None:
    """The key lies in the secrets file, where workers of a cluster that runs already find it too."""
    secrets = Path(os.environ["KOSEN_HOME"]) / "secrets.env"
    secrets.write_text("MY_KEY=sk-very-secret\n")
    secrets.chmod(0o600)
    folder = tmp_path / "run"
    with ScriptedServer(api_key="sk-very-secret") as server:
        job = [f"dataset={write_exam(tmp_path / 'exam.jsonl', numbered(3))}", "model=scripted", f"run={folder}"]
        job += [f"base_url={server.base_url}", "provider=compatible"]
        refused = run("jobs.predict", *job)
        assert refused.returncode == 4 and "refuses the key" in refused.stderr
        done = run("jobs.predict", *job, "api_key_env=MY_KEY")
        assert done.returncode == 0, done.stderr
        secrets.chmod(0o644)
        assert "chmod 600" in run("jobs.predict", *job, "api_key_env=MY_KEY", "temperature=1").stderr
    secrets.unlink()
    for file in [*folder.rglob("*"), *Path(cluster["temp_dir"], "session_latest/logs").rglob("*")]:
        if file.is_file():
            assert "sk-very-secret" not in file.read_text(errors="replace"), file


def test_a_key_of_the_drivers_shell_reaches_actors_that_were_not_started_from_it(
    cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", numbered(3))
    monkeypatch.setenv("SHELL_KEY", "sk-of-this-shell")
    with ScriptedServer(api_key="sk-of-this-shell") as server:
        job = [f"dataset={exam}", "model=scripted", f"base_url={server.base_url}", f"run={tmp_path}/run"]
        judge = [f"judge_base_url={server.base_url}", "judge_api_key_env=SHELL_KEY"]  # which model: the only one there
        done = run("jobs.evaluate", *job, *judge, "api_key_env=SHELL_KEY")
    assert done.returncode == 0, done.stderr
    logs = Path(cluster["temp_dir"], "session_latest/logs")
    files = [file for folder in (tmp_path / "run", logs) for file in folder.rglob("*") if file.is_file()]
    assert not [file for file in files if b"sk-of-this-shell" in file.read_bytes()]


def test_tracking_offline_needs_no_account(cluster: dict[str, Any], tmp_path: Path) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", numbered(3))
    folder = tmp_path / "run"
    with ScriptedServer() as server:
        job = [f"dataset={exam}", "model=scripted", f"base_url={server.base_url}", f"run={folder}"]
        done = run("jobs.evaluate", *job, "wandb.project=kosen", "wandb.mode=offline")
    assert done.returncode == 0, done.stderr
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))
