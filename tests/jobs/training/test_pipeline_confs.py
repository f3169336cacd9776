"""The pipelines that are shipped: each step's arguments fit its job, and what a step reads an earlier one makes."""

from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from jobs import pipeline
from jobs.demo import __main__
from jobs.exam.spec import ExamSpec, load_prompt
from jobs.tasks.preparing import TASKS
from orchestrator.pipelines.plan import PipelineSpec, PipelineStep, plan
from orchestrator.ray_cluster.jobs_api import check_job
from orchestrator.spec import load_spec
from orchestrator.training.checkpoints.merge_run import MergeSpec
from orchestrator.training.spec import PpoSpec, SftSpec

CONFS = sorted((REPOSITORY / "conf" / "pipelines").glob("*.yaml"))
SPECS: dict[str, Any] = {"evaluate": ExamSpec, "sft": SftSpec, "ppo": PpoSpec, "merge": MergeSpec}


def arguments_of(step: PipelineStep) -> Any:
    """The step's command line as its job reads it, as the spec of that job."""
    given = list(step.arguments)
    if step.job == "demo":
        return {"out": Path(given[given.index("--out") + 1])}
    if step.job == "prepare":
        return load_spec(TASKS[given.pop(0)], None, given)
    config = Path(given[1]) if given[0] == "--config" else None
    return load_spec(SPECS[step.job], config, given[2:] if config else given)


def made_by(step: PipelineStep, spec: Any) -> set[str]:
    """Files and folders that a step leaves for others."""
    if step.job == "demo":
        return {str(step.folder / name) for name in ("model", "sft.jsonl", "rl.jsonl", "exam.jsonl")}
    if step.job == "prepare":
        return {str(step.out) for step in spec.steps()}
    return {spec.out} if step.job == "merge" else {str(step.folder)}


def read_by(spec: Any) -> set[str]:
    names = ("run",) if isinstance(spec, MergeSpec) else ("model", "train", "val", "dataset")
    return {value for name in names if (value := getattr(spec, name, None))}


@pytest.fixture(params=CONFS, ids=lambda path: path.stem)
def steps(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[PipelineStep]:
    monkeypatch.chdir(REPOSITORY)
    return plan(load_spec(PipelineSpec, request.param, []), tmp_path)


def test_a_step_has_what_its_job_wants(steps: list[PipelineStep]) -> None:
    for step in steps:
        check_job(step.job)
        spec = arguments_of(step)
        if isinstance(spec, ExamSpec):
            load_prompt(spec.system_prompt, "")
        own = getattr(spec, "run" if step.job in ("sft", "ppo", "evaluate") else "out", None) or spec["out"]
        assert Path(own).is_relative_to(step.folder)


def test_what_a_step_reads_is_made_by_one_that_it_needs(steps: list[PipelineStep], tmp_path: Path) -> None:
    made = {step.name: made_by(step, arguments_of(step)) for step in steps}
    for step in steps:
        known = {path for needed in step.needs for path in made[needed]}
        inside = {path for path in read_by(arguments_of(step)) if path.startswith(str(tmp_path))}
        assert inside <= known, step.name


@pytest.mark.parametrize("conf", CONFS, ids=lambda path: path.stem)
def test_a_dry_run_lists_the_steps_and_makes_nothing(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))
    assert pipeline.main(["--config", str(conf), "--dry-run", f"run={tmp_path / 'run'}"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in load_spec(PipelineSpec, conf, []).steps)
    assert not list(tmp_path.iterdir())


def test_the_demo_writes_what_its_pipeline_expects(tmp_path: Path) -> None:
    assert __main__.main(["sums", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model", "sft.jsonl", "rl.jsonl", "exam.jsonl"}
