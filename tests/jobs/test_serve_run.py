"""An exam on a model of our own: real vLLM on CPU behind real Ray Serve, its engine killed in mid-run."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support.harness import cluster_processes, numbered, records, run, start, wait_for, write_exam
from tests.support.tiny_model import make_tiny_model

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_killed_engine_costs_time_and_no_answers(tmp_path: Path) -> None:
    model = tmp_path / "tiny"
    make_tiny_model(model)
    exam = write_exam(tmp_path / "exam.jsonl", numbered(60))
    folder = tmp_path / "run"
    arguments = [
        f"dataset={exam}",
        f"model={model}",
        "base_url=http://localhost:9/v1",  # this host, and nothing listens
        f"run={folder}",
        "max_completion_tokens=200",
        "num_workers=4",
        "serving.max_model_len=512",
    ]
    job = start("jobs.evaluate", *arguments)
    wait_for(lambda: job.poll() is not None or len(records(folder / "predictions.jsonl")) >= 8, 200, "8 answers")
    assert job.poll() is None, job.communicate()
    engines = cluster_processes("VLLM::EngineCore")
    assert len(engines) == 1
    engines[0].kill()
    before = {record["id"] for record in records(folder / "predictions.jsonl")}
    assert len(before) < 60
    _, err = job.communicate(timeout=280)
    assert job.returncode in (0, 3), err  # random weights may end an answer before its first letter
    assert "nothing listens at http://localhost:9/v1: deploying" in err
    lines = records(folder / "predictions.jsonl")
    assert Counter(record["id"] for record in lines) == Counter(f"{n:024x}" for n in range(60))
    assert {record["reason"] for record in lines} <= {None, "length", "repetition", "empty"}
    assert max(record["attempts"] for record in lines) > 1
    assert not cluster_processes("VLLM::EngineCore")  # released with the job

    again = run("jobs.evaluate", *arguments)
    assert again.returncode == job.returncode, again.stderr
    assert "0 to ask" in again.stderr and "deploying" not in again.stderr
    assert len(records(folder / "predictions.jsonl")) == 60


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_local_judge_answers_in_the_schema(tmp_path: Path) -> None:
    """Model and judge side by side on one Serve; random weights under HLE's JSON schema still give verdicts."""
    model, judge = tmp_path / "tiny", tmp_path / "judge"
    make_tiny_model(model)
    make_tiny_model(judge, seed=1)
    exam = write_exam(tmp_path / "exam.jsonl", numbered(3))
    prompt = tmp_path / "judge.txt"  # short: the toy model reads 512 characters
    prompt.write_text("{question} {response} {correct_answer}")
    folder = tmp_path / "run"
    done = run(
        "jobs.evaluate",
        f"dataset={exam}",
        f"model={model}",
        "max_completion_tokens=16",
        f"judge={judge}",
        "judge_provider=vllm",
        f"judge_prompt={prompt}",
        f"run={folder}",
        timeout=500,
    )
    assert done.returncode in (0, 3), done.stderr
    verdicts = records(folder / "judgements.jsonl")
    answered = [record for record in records(folder / "predictions.jsonl") if record["status"] != "failed"]
    assert {record["id"] for record in verdicts} == {record["id"] for record in answered}
    assert {record["verdict"] for record in verdicts} <= {"yes", "no", "unjudged"}
    assert {record["judge"]["model"] for record in verdicts} == {str(judge)}
    assert {record["reason"] for record in verdicts} <= {None, "4xx", "length", "malformed", "repetition"}
