"""`--dry-run` of every spec in conf/, against the verl that is installed, without internet, data or a cluster."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.files import REPOSITORY
from jobs import ppo, sft
from orchestrator.errors import KosenError, SpecError
from orchestrator.spec import load_spec
from orchestrator.training.supervision.run import Recipe, Source
from tests.support.harness import call
from tests.support.tiny_model import make_tiny_model

DEMO = f"dataset={REPOSITORY}/conf/demo/exam.jsonl"
DEMO_SPEC = REPOSITORY / "conf" / "demo.yaml"
EXAM = [DEMO, "split=test", "judge=rule", "max_samples=3"]
JOBS = {"sft": sft.main, "ppo": ppo.main}
RECIPES: dict[str, Recipe[Any]] = {"sft": sft.RECIPE, "ppo": ppo.RECIPE}


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("RAY_ADDRESS", "KOSEN_CLUSTER"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_is_valid(path: Path, tmp_path: Path) -> None:
    job = path.stem.partition("-")[0]
    if "\nsteps:" in path.read_text():
        done = call("jobs.pipeline", "--config", str(path), "--dry-run")
    elif job in JOBS:
        done = call(f"jobs.{job}", "--config", str(path), "--dry-run")
        assert "2 nodes with 8 processes and a GPU for each" in done.stdout
    elif job == "bench":
        done = call("jobs.bench", "--config", str(path), "--dry-run")
    else:
        made = [f"model={make_tiny_model(tmp_path)}"] if path == DEMO_SPEC else []  # `make demo` trains it first
        done = call("jobs.evaluate", "--config", str(path), "--dry-run", *EXAM, *made)
    assert done.returncode == 0, done.stderr


def test_it_shows_the_spec_verls_keys_and_the_reasons(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "q", "answer": "a"}\n')
    arguments = ["--dry-run", "model=org/name", f"train={rows}", "device=cpu", "verl.optim.betas=[0.9,0.95]"]
    assert sft.main(arguments) == 0
    shown = capsys.readouterr().out
    for part in (
        "model: org/name",
        "optim.betas: [0.9, 0.95]",
        'engine.strategy: "fsdp2"',
        "float32 (on CPUs)",
        "sdpa, rows padded (on CPUs)",
        f"{rows} →",
        "1 node with 1 process and a CPU",
    ):
        assert part in shown
    assert "trainer.seed" not in shown  # verl's own default


@pytest.mark.parametrize(
    ("job", "overrides", "parts"),
    [
        ("sft", ["lerning_rate=1"], ["lerning_rate"]),
        ("sft", ["verl.optim.lrr=1"], ["verl.optim.lr?"]),
        ("sft", ["workers=3"], ["batch_size=256", "3 workers"]),
        ("sft", ["train=rows.txt/none/at/all"], ["rows.txt/none/at/all"]),
        ("sft", ["verl.trainer.nnodes=2"], ["workers="]),
        ("sft", ["max_tokens_per_gpu=100"], ["max_length=1024"]),
        ("ppo", ["algorithm=grpo", "rollout.n=1"], ["rollout.n"]),
        ("ppo", ["rollout.tempreture=1"], ["rollout.temperature"]),
        ("ppo", ["reward=mine.py"], ["mine.py"]),
    ],
)
@pytest.mark.parametrize("dry", [True, False], ids=["dry", "real"])
def test_a_mistake_is_one_sentence_before_anything_starts(
    job: str, overrides: list[str], parts: list[str], dry: bool, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "q", "answer": "a"}\n')
    arguments = ["model=org/name", f"train={rows}", "device=cpu", *overrides, *(["--dry-run"] if dry else [])]
    with pytest.raises(SpecError) as error:
        JOBS[job](arguments)
    for part in parts:
        assert part in str(error.value)
    assert not (tmp_path / "home" / "clusters" / "local" / "state.json").exists()


def test_data_that_is_not_there_yet_is_said_in_a_dry_run_and_refused_in_a_run() -> None:
    arguments = ["model=org/name", "train=data/none.parquet", "device=cpu"]
    assert sft.main([*arguments, "--dry-run"]) == 0
    with pytest.raises(KosenError, match=r"none\.parquet"):
        sft.main(arguments)


@pytest.mark.parametrize(
    ("job", "row", "template", "part"),
    [
        ("sft", {"question": "q", "answer": "a"}, "{{ 1 // 0 }}", "cannot train with the chat template"),
        ("sft", {"question": "q", "answer": "a"}, None, "has no chat template"),
        ("sft", {"question": "q", "answer": None}, "", "have the columns question. Expected"),
        ("sft", {"messages": [{"role": "user", "content": "q"}]}, "", "can be trained on"),
        ("sft", {"a": "q"}, "", "have the columns a"),
        ("ppo", {"question": "q", "answer": "many"}, "", "the right answer 'many' is not a number"),
        ("ppo", {"question": "q", "answer": "5"}, "{{ 1 // 0 }}", "refused by the chat template"),
        ("ppo", {"question": "q", "answer": "5", "tools": "t"}, "", "column tools"),
    ],
)
@pytest.mark.parametrize("dry", [True, False], ids=["dry", "real"])
def test_model_template_and_golds_are_read(
    job: str, row: dict[str, Any], template: str | None, part: str, dry: bool, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "model")
    if template is None:
        (model / "chat_template.jinja").unlink()
    elif template:
        (model / "chat_template.jinja").write_text(template)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    module = JOBS[job]
    arguments = [f"model={model}", f"train={rows}", "device=cpu", "batch_size=1"]
    if dry:
        with pytest.raises(SpecError, match=part):
            module([*arguments, "--dry-run"])
        return
    spec, recipe = load_spec(RECIPES[job].schema, None, arguments), RECIPES[job]
    with pytest.raises(SpecError, match=part):  # before a GPU works, but not before there is a cluster
        recipe.convert(spec, Source(str(rows), "train", tmp_path / "out.parquet"), tmp_path / "out.parquet")


def test_a_dry_run_of_good_rows_says_what_it_saw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_tiny_model(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "q", "answer": "5"}\n{"question": "q", "answer": "many"}\n')
    assert ppo.main([f"model={model}", f"train={rows}", "device=cpu", "batch_size=1", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 2 rows kept (question/answer)" in shown and "1 dropped, no right answer for this reward" in shown
    assert ppo.main(["model=org/none", f"train={rows}", "device=cpu", "batch_size=1", "--dry-run"]) == 0
    assert "org/none is not here" in capsys.readouterr().out
