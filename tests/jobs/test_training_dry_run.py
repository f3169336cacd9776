"""`--dry-run` of every spec in conf/, against the verl that is installed, without internet, data or a cluster."""

from pathlib import Path

import pytest
from harness import ROOT, run

from jobs import ppo, sft
from orchestrator.errors import KosenError, SpecError

DEMO = f"dataset={ROOT}/conf/demo/exam.jsonl"
EXAM = [DEMO, "split=test", "judge=rule", "max_samples=3"]
JOBS = {"sft": sft.main, "ppo": ppo.main}


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("RAY_ADDRESS", "KOSEN_CLUSTER"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_is_valid(path: Path) -> None:
    job = path.stem.partition("-")[0]
    if "\nsteps:" in path.read_text():
        done = run("jobs.pipeline", "--config", str(path), "--dry-run")
    elif job in JOBS:
        done = run(f"jobs.{job}", "--config", str(path), "--dry-run")
        assert "2 nodes with 8 processes and a GPU for each" in done.stdout
    elif job == "bench":
        done = run("jobs.bench", "--config", str(path), "--dry-run")
    else:
        done = run("jobs.evaluate", "--config", str(path), "--dry-run", *EXAM)
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
