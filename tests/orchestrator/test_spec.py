"""Specs: merging, and sentences that name the key, the file and the nearest valid key."""

from pathlib import Path

import pytest

from jobs.benchmarking.spec import BenchSpec
from jobs.exam import ExamSpec
from orchestrator.errors import SpecError
from orchestrator.spec import SpecModel, load_spec, to_yaml
from orchestrator.training.spec import PpoSpec, SftSpec

ROOT = Path(__file__).parents[2]


def load(*overrides: str, config: Path | None = None) -> ExamSpec:
    return load_spec(ExamSpec, config, overrides)


def test_overrides_win_over_the_file_and_nest(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: m\nmax_samples: 5\nserving: {max_model_len: 100, dtype: bfloat16}\n")
    spec = load("max_samples=7", "serving.max_model_len=200", config=path)
    assert (spec.max_samples, spec.serving.max_model_len, spec.serving.dtype) == (7, 200, "bfloat16")


def test_a_group_without_a_key_has_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: m\nserving:\n  # dtype: bfloat16\njudge:\n")
    assert load(config=path) == load("model=m")
    assert load("serving.dtype=float32", config=path).serving.dtype == "float32"


def test_text_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    spec = load("model=m", "run=2026_11_20", "question_ids=[1,66882e58,007]", "judge=3")
    assert (spec.run, spec.question_ids, spec.judge) == ("2026_11_20", ["1", "66882e58", "007"], "3")
    (tmp_path / "spec.yaml").write_text("model: m\nquestion_ids: [12]\nrun: 7\n")
    spec = load("run=null", config=tmp_path / "spec.yaml")
    assert (spec.run, spec.question_ids) == (None, ["12"])


def test_the_resolved_spec_reads_back_as_itself(tmp_path: Path) -> None:
    spec = load("model=m", "judge=j", "judge_base_url=http://localhost:1/v1", "categories=[Math,Physics]")
    (tmp_path / "spec.yaml").write_text(to_yaml(spec))
    assert load(config=tmp_path / "spec.yaml") == spec


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("max_sample=5", "Did you mean max_samples?"),
        ("num_worker=5", "Did you mean num_workers?"),
        ("serving.tensor_paralel_size=2", "Did you mean serving.tensor_parallel_size?"),
        ("tensor_parallel_size=2", "Did you mean serving.tensor_parallel_size?"),
        ("max_samples=many", "max_samples='many'"),
        ("max_samples=0", "max_samples=0"),
        ("provider=bedrock", "provider='bedrock'"),
        ("max_completion_tokens=lots", "max_completion_tokens='lots'"),
        ("serving.gpu_memory_utilization=90", "serving.gpu_memory_utilization=90"),
        ("max_samples", "'max_samples' is not an override"),
        ("samples=4 temperature=0", "samples=4"),
    ],
)
def test_a_wrong_key_or_value_is_named(override: str, told: str) -> None:
    with pytest.raises(SpecError) as error:
        load("model=m", *override.split())
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_model_and_a_missing_or_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the key model is missing"):
        load()
    with pytest.raises(SpecError, match="there is no spec file"):
        load(config=tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("model: [m\n")
    with pytest.raises(SpecError, match=r"broken\.yaml"):
        load(config=tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- model\n")
    with pytest.raises(SpecError, match="list"):
        load(config=tmp_path / "list.yaml")


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_is_valid(path: Path) -> None:
    schemas: dict[str, type[SpecModel]] = {"sft": SftSpec, "ppo": PpoSpec, "bench": BenchSpec}
    load_spec(schemas.get(path.stem.partition("-")[0], ExamSpec), path, [])  # raises what is wrong with it
