"""Specs: merging, and sentences that name the key, the file and the nearest valid key."""

import json
from pathlib import Path

import pytest

from cluster.files import REPOSITORY
from jobs.benchmarking.spec import BenchSpec
from jobs.exam.spec import ExamSpec
from orchestrator.errors import SpecError
from orchestrator.spec import SpecModel, check_argument, load_spec, to_yaml
from orchestrator.training.spec import PpoSpec, SftSpec


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


@pytest.mark.parametrize(
    "value",
    [
        *(
            "${oc.env:HOME}",
            "a${oc.env:HOME}b",
            "${oc.env: HOME}",
            "${ oc.env : HOME}",
            "${oc.decode:x}",
            "${x:${run}}",
        ),
        *("\\${oc.env:HOME}", "${oc.create:{a: 1}}"),
    ],
)
@pytest.mark.parametrize("key", ["dataset", "max_samples", "serving.engine_kwargs.x", "categories", "hf"])
def test_functions_in_a_spec_are_refused(value: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    top, _, rest = key.partition(".engine_kwargs.")
    inner = f"{{engine_kwargs: {{{rest}: '{value}'}}}}" if rest else f"'{value}'"
    path.write_text(f"model: m\n{top}: {inner}\n")
    for overrides, config in (([], path), (["model=m", f"{key}={value}"], None)):
        with pytest.raises(SpecError, match=rf"^{key} calls one of OmegaConf's functions") as told:
            load(*overrides, config=config)
        assert str(Path.home()) not in str(told.value)


def test_a_key_may_stand_for_another() -> None:
    assert load("model=m", "judge=${model}").judge == "m"


@pytest.mark.parametrize(
    "run",
    [
        *("..", "../x", "a/../b", ".", "./", "/", "-x", "--help", "a/-b", "a\nb", "a\rb", "a\x1b[1mb", " a", "a ", " "),
        *("~/x", "x" * 256, "日" * 86, "a/" + "x" * 256, "a\x00b", "a\u202eb"),
    ],
)
def test_a_run_name_that_leads_elsewhere_or_is_no_name_is_refused(run: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps({"model": "m", "run": run}))
    for overrides, config in (([], path), (["model=m", f"run={run}"], None)):
        with pytest.raises(SpecError) as told:
            load(*overrides, config=config)
        assert "run=" in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("run", ["a", "a/b", "/tmp/x", "/tmp/../x", "2026_11_27", "日本", "a b", "a..b", "a-b", ".a"])
def test_a_run_name_below_the_root_or_absolute_is_taken(run: str) -> None:
    assert load("model=m", f"run={run}").run == run


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "{a: " * 3000, "model: &a [*a]", "a: &a {b: *a}", "--- a\n--- b", "? [a]\n: b", "null: x"),
        *("model: m\n1: 2", "true: 5", "model: !!python/object/apply:os.system [ls]", "model: m\nmodel: n", "5", '"x"'),
        *("model: m\nx: 2026-99-99", "model: m\nmax_samples: " + "9" * 5000, "model: m\n<<: 5", "\tmodel: m", "\x00"),
        *("model: ${", "model: ${model}", "model: ${none}", 'model: "\\ud800"', "model: m\nserving: [1]", "model: [m"),
        *("model: m\nserving: {engine_kwargs: {? [a] : b}}", "model: m\nserving: {engine_kwargs: {null: 1}}"),
    ],
    ids=lambda text: text[:30],
)
def test_hostile_yaml_ends_in_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as told:
        load(config=path)
    assert "\n" not in str(told.value) and len(str(told.value)) < 1000


@pytest.mark.parametrize(
    "override",
    [
        *("model=" + "[" * 100_000, "categories=" + "[" * 100_000, "max_samples=" + "9" * 5000, "hf=" + "{a: " * 3000),
        *(
            "a..b=1",
            ".=1",
            "[0]=1",
            "a[0]=1",
            "=",
            "==",
            "x=\udcff",
            "\udcff=1",
            "model=a\x00b",
            "model=!!python/x:y 1",
        ),
        *("categories=[1,2", "question_ids=[{a: 1}]", "serving=1", "-x=1", "x\ny", "${oc.env:HOME}=3"),
    ],
    ids=lambda override: ascii(override[:20]),
)
def test_a_hostile_override_ends_in_a_sentence(override: str) -> None:
    with pytest.raises(SpecError) as told:
        load("model=m", override)
    assert "\n" not in str(told.value) and len(str(told.value)) < 1000


@pytest.mark.parametrize("key", ["base_url", "judge_base_url", "dataset", "serving.engine_kwargs.otlp_traces_endpoint"])
@pytest.mark.parametrize("login", ["user:sesame", "sesame", ":sesame", "user:ses/ame", "user:ses#ame"])
def test_a_login_in_an_address_is_refused_and_not_shown(key: str, login: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    top, _, rest = key.partition(".engine_kwargs.")
    url = f"https://{login}@h:8000/v1"
    path.write_text(json.dumps({"model": "m", top: {"engine_kwargs": {rest: url}} if rest else url}))
    for overrides, config in (([], path), (["model=m", f"{key}={url}", "max_samples=none"], None)):
        with pytest.raises(SpecError, match=rf"^{key} has a user or a password.*api_key_env=") as told:
            load(*overrides, config=config)
        assert "ses" not in str(told.value)


KEYS = ("sk-" + "A1b2" * 12, "hf_" + "A1b2" * 9, "gsk_" + "A1b2" * 13, "AKIA" + "A1" * 8)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:4])
@pytest.mark.parametrize(
    "override",
    [
        *("api_key_env={}", "judge_api_key_env={}", "serving.engine_kwargs.hf_token={}", "model={}", "run={}"),
        *("serving.engine_kwargs.x=[a,{}]", "{}=1", "dataset=https://h/d?token={}", "api_key={}", "Bearer {}"),
    ],
)
def test_a_key_in_a_spec_is_refused_and_not_shown(override: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as told:
        load("model=m", override.format(key))
    assert key not in str(told.value) and "\n" not in str(told.value)
    with pytest.raises(SpecError) as told:
        check_argument(override.format(key))
    assert key not in str(told.value)


@pytest.mark.parametrize("value", ["my key", "0a1b", "a-b", "sesame!"])
def test_what_names_no_variable_is_no_key_env_and_not_shown(value: str) -> None:
    with pytest.raises(SpecError, match="looks like a secret") as told:
        load("model=m", f"api_key_env={value}")
    assert value not in str(told.value)


@pytest.mark.parametrize("value", ["run=sk-learn_demo", "run=hf_demo", "api_key_env=MY_KEY", "api_key_env=null"])
def test_what_only_resembles_a_key_is_taken(value: str) -> None:
    load("model=m", value)


def test_an_at_elsewhere_is_no_login() -> None:
    spec = load("model=org/m@v2", "dataset=hf://datasets/a@b/c", "judge=m@v1", "serving.engine_kwargs.revision=a@b:c")
    assert (spec.model, spec.dataset) == ("org/m@v2", "hf://datasets/a@b/c")
    assert load("model=m", "dataset=http://h:8000/@x/y@z.json").dataset == "http://h:8000/@x/y@z.json"


def test_what_changed_is_shown_alone_and_reads_back_as_the_same(tmp_path: Path) -> None:
    spec = load("model=m", "serving.max_num_seqs=4", "judge=j")
    shown = to_yaml(spec, changed_only=True)
    assert shown == "model: m\njudge: j\nserving:\n  max_num_seqs: 4\n"
    (tmp_path / "spec.yaml").write_text(shown)
    assert load(config=tmp_path / "spec.yaml") == spec


@pytest.mark.parametrize("path", sorted((REPOSITORY / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_is_valid(path: Path) -> None:
    schemas: dict[str, type[SpecModel]] = {"sft": SftSpec, "ppo": PpoSpec, "bench": BenchSpec}
    load_spec(schemas.get(path.stem.partition("-")[0], ExamSpec), path, [])  # raises what is wrong with it
