"""`--dry-run` of the exam commands: what it shows, and what it finds without a GPU."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import evaluate
from jobs.exam.retired import retirement
from jobs.exam.spec import ExamSpec
from orchestrator.errors import SpecError
from tests.support.scripted_server import ScriptedServer

ROW: dict[str, Any] = {"id": "a", "question": "What is 2 + 2?", "answer": "4", "answer_type": "exactMatch"}
ROW |= {"category": "Math", "image": ""}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a cluster nor a key of whoever runs the tests."""
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "kosen"))
    for name in ("RAY_ADDRESS", "KOSEN_CLUSTER", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path, ROW, ROW | {"id": "b"})


def write(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"dataset={path}"


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert evaluate.main(["--dry-run", *arguments]) == 0
    return capsys.readouterr().out


def test_only_what_differs_from_the_defaults_is_shown(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = show(capsys, "model=org/name", data, "serving.max_num_seqs=4", "samples=1")
    spec, _, facts = shown.partition("---\n")
    assert (
        spec == f"dataset: {data.removeprefix('dataset=')}\nmodel: org/name\njudge: rule\nserving:\n  max_num_seqs: 4\n"
    )
    assert "2 questions × 1 = 2 answers" in facts
    assert "warning" not in facts


def test_json_has_all_keys_and_the_figures(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(show(capsys, "--json", "model=org/name", data, "samples=2", "max_completion_tokens=100"))
    assert set(shown["spec"]) == set(ExamSpec.model_fields)
    assert (shown["questions"], shown["answers"], shown["answer_tokens_at_most"]) == (2, 4, 400)
    assert shown["warnings"] == []


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        ("o3-mini-2025-01-31", "judge=o3-mini-2025-01-31 is switched off: OpenAI switched it off on 2026-10-23"),
        ("gpt-4o-2024-08-06", "OpenAI switche"),
        ("gpt-5", "judge=gpt-5 requires a key, but OPENAI_API_KEY is not set"),
    ],
)
def test_a_judge_that_will_not_answer_is_told(
    data: str, judge: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in show(capsys, "model=org/name", data, f"judge={judge}")


def test_the_same_name_elsewhere_is_another_matter(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    judge = ("judge=o3-mini-2025-01-31", "judge_base_url=http://localhost:1/v1")
    assert "switched off" not in show(capsys, "model=org/name", data, *judge)


def test_a_day_that_has_not_come_is_told_as_one() -> None:
    from datetime import date

    assert retirement("gpt-4o-2024-08-06", date(2027, 1, 13)) == "OpenAI switches it off on 2027-01-14"
    assert retirement("gpt-4o-2024-08-06", date(2027, 1, 14)) == "OpenAI switched it off on 2027-01-14"
    assert retirement("rule") is None


def test_golds_that_no_answer_reaches_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = {"...": "no"}  # of a rule that cannot read the gold, whatever is answered
    monkeypatch.setattr(
        "jobs.tasks.hle.rule_verdict", lambda item, _: SimpleNamespace(verdict=verdicts.get(item.answer, "yes"))
    )
    rows = [ROW, ROW | {"id": "dots", "answer": "..."}]
    assert "1 of 2 golds cannot be read by the rule" in show(capsys, "model=o/n", write(tmp_path, *rows))
    assert "cannot be read by the rule" not in show(
        capsys, "model=o/n", write(tmp_path, *rows), "judge=j", "judge_base_url=http://h/v1"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["serving.engine_kwargs.enable_prefix_cachin=true"],
            "Did you mean serving.engine_kwargs.enable_prefix_caching",
        ),
        (["serving.engine_kwargs.block_size=abc"], "serving.engine_kwargs.block_size='abc' does not fit"),
        (["serving.reasoning_parser=qwen33"], "did you mean qwen3?"),
        (
            ["judge=o/j", "judge_provider=vllm", "judge_serving.engine_kwargs.x_y_z=1"],
            "judge_serving.engine_kwargs.x_y_z",
        ),
        (["base_url=h:8000/v1"], "is not an address"),
        (["base_url=http://[::1/v1"], "is not an address"),
        (["judge_base_url=http://[::1/v1", "judge=j"], "is not an address"),
        (["judge_base_url=http://[::1/v1"], "is not an address"),
        (["base_url=http://user:sesame@h/v1"], "api_key_env="),
        (["judge=j", "judge_base_url=user:sesame@h/v1"], "judge_api_key_env="),
        (["model=/no/such/folder"], "there is no model folder /no/such/folder"),
    ],
)
@pytest.mark.parametrize("first", [["--dry-run"], ["--dry-run", "--json"]])
def test_what_needs_no_gpu_to_be_found_is_found(data: str, arguments: list[str], told: str, first: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        evaluate.main([*first, "model=org/name", data, *arguments])
    assert told in str(error.value)
    assert "sesame" not in str(error.value)


def test_without_a_dry_run_it_is_found_before_a_cluster_is_asked_for(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.exam.run.connect", lambda: pytest.fail("a cluster was asked for"))
    for wrong in ("serving.engine_kwargs.foo=1", "serving.reasoning_parser=qwen33", "base_url=user:pw@h/v1"):
        with pytest.raises(SpecError):
            evaluate.main(["model=org/name", data, wrong])


@pytest.mark.parametrize("provider", ["openai", "deepinfra", "ollama"])
def test_keys_without_effect_are_told(data: str, provider: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["model=m", data, f"provider={provider}", "base_url=http://127.0.0.1:1/v1", "serving.max_num_seqs=4"]
    assert evaluate.main(["--dry-run", *given, "reasoning=false"]) == 0
    told = capsys.readouterr().err
    assert f"reasoning=false has no effect with provider={provider}" in told
    assert "serving.max_num_seqs has no effect" in told
    assert evaluate.main(["--dry-run", "model=m", data, "provider=compatible", given[3], "reasoning=false"]) == 0
    assert "no effect" not in capsys.readouterr().err


def test_an_address_without_v1_is_shown_as_it_is_used(
    data: str, scripted_server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    root = scripted_server.base_url.removesuffix("/v1")
    shown = show(capsys, "model=scripted", data, "provider=compatible", f"base_url={root}", f"judge_base_url={root}")
    assert f"endpoint: scripted at {scripted_server.base_url}, which answers" in shown
    assert f"judge:    scripted at {root}" in shown
