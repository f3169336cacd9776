"""What a pipeline's spec becomes: filled steps in order, and sentences for what cannot work."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import SpecError
from orchestrator.pipelines.plan import PipelineSpec, StepProgress, plan, read_progress, write_progress
from orchestrator.spec import load_spec

TWO_STEPS = {
    "first": {"job": "prepare", "arguments": ["out={here}", "n={n}"]},
    "second": {"job": "sft", "arguments": ["run={here}", "train={first}/train.parquet"], "needs": ["first"]},
}


def spec(steps: Mapping[str, object], **keys: object) -> PipelineSpec:
    return PipelineSpec.model_validate({"run": "p", "values": {"n": 3}, "steps": steps} | keys)


def test_placeholders_become_folders_and_values(tmp_path: Path) -> None:
    first, second = plan(spec(TWO_STEPS), tmp_path)
    assert first.arguments == (f"out={tmp_path}/first", "n=3")
    assert second.arguments == (f"run={tmp_path}/second", f"train={tmp_path}/first/train.parquet")
    assert second.needs == ("first",)


def test_a_step_comes_after_what_it_needs_however_it_is_written(tmp_path: Path) -> None:
    backwards = dict(reversed(TWO_STEPS.items()))
    assert [step.name for step in plan(spec(backwards), tmp_path)] == ["first", "second"]


def test_every_model_gets_all_steps_before_the_next_one(tmp_path: Path) -> None:
    steps = {"score": {"job": "evaluate", "arguments": ["model={model}", "run={here}"]}}
    found = plan(spec(steps, models=["org/a-7B", "/models/b"]), tmp_path)
    assert [step.name for step in found] == ["org-a-7B/score", "models-b/score"]
    assert found[1].arguments == ("model=/models/b", f"run={tmp_path}/models-b/score")
    with pytest.raises(SpecError, match="org-a-7B/score"):
        plan(spec(steps, models=["org/a-7B", "org-a-7B"]), tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"second": TWO_STEPS["second"] | {"needs": []}}, "uses {first}: add it to its needs"),
        ({"second": TWO_STEPS["second"] | {"needs": ["third"]}}, "needs third, which is not a step"),
        ({"second": {"job": "sft", "arguments": ["run={here}", "lr={rate}"]}}, "uses {rate}: known are here, n"),
        ({"second": {"job": "sft", "arguments": ["lr=1"]}}, "writes nowhere of its own"),
        ({"here": {"job": "sft", "arguments": ["run={here}"]}}, "is not a valid step name"),
        ({"first": TWO_STEPS["first"] | {"needs": ["second"]}}, "in a circle"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump({"run": "p", "values": {"n": 3}, "steps": TWO_STEPS | change}))
    with pytest.raises(SpecError) as caught:
        load_spec(PipelineSpec, file, [])
    assert sentence in str(caught.value)


def test_a_changed_step_and_all_that_need_it_run_again(tmp_path: Path) -> None:
    for step in plan(spec(TWO_STEPS), tmp_path):
        write_progress(step, StepProgress(fingerprint=step.fingerprint).ended(0, 1.0))
    assert [read_progress(step).state for step in plan(spec(TWO_STEPS), tmp_path)] == ["finished", "finished"]
    changed = TWO_STEPS | {"second": TWO_STEPS["second"] | {"arguments": ["run={here}"]}}
    assert [read_progress(step).state for step in plan(spec(changed), tmp_path)] == ["finished", "waiting"]
    other_value = plan(spec(TWO_STEPS, values={"n": 4}), tmp_path)
    assert [read_progress(step).state for step in other_value] == ["waiting", "waiting"]
