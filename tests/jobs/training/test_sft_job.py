"""The fine-tuning job as a user gives it: trains, is finished, resumes, and refuses what cannot be done."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.support.harness import run
from tests.support.tiny_model import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("cluster")]

ROWS, BATCH = 18, 8  # two steps, and two rows that fill no batch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft")
    make_tiny_model(folder / "model")
    rows = [
        {"question": f"{number % 7}+{number % 3}=?", "answer": str(number % 7 + number % 3)} for number in range(ROWS)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "few.jsonl").write_text(json.dumps(rows[0]) + "\n")
    (folder / "bad.jsonl").write_text('{"question": "", "answer": ""}\n')
    return folder


def arguments(data: Path, *more: str) -> list[str]:
    train = data / "train.jsonl"
    own = [f"model={data / 'model'}", f"train={train}", f"val={train}", f"run={data / 'run'}", f"batch_size={BATCH}"]
    return [*own, "max_length=64", "lr=3e-3", "save_every=2", *more]


@pytest.fixture(scope="module")
def trained(data: Path, cluster: dict[str, Any]) -> dict[str, Any]:
    done = run("jobs.sft", *arguments(data, "epochs=2", "--json"), timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_it_trains_and_says_what_came_of_it(data: Path, trained: dict[str, Any]) -> None:
    assert trained["step"] == 4
    assert trained["loss"] < trained["first_loss"]
    assert trained["val_loss"] is not None
    assert Path(trained["checkpoint"]) == data / "run" / "checkpoints" / "global_step_4"
    assert trained["next"] == f"python -m jobs.merge run={data / 'run'}"
    written: Any = OmegaConf.load(data / "run" / "spec.yaml")
    assert written.epochs == 2


def test_given_again_it_is_finished_and_with_more_epochs_it_goes_on(data: Path, trained: dict[str, Any]) -> None:
    again = run("jobs.sft", *arguments(data, "epochs=2"), timeout=300)
    assert again.returncode == 0, again.stderr
    assert "finished" in again.stderr and "global_step_4" in again.stdout
    longer = run("jobs.sft", *arguments(data, "epochs=3", "--json"), timeout=600)
    assert longer.returncode == 0, longer.stderr
    assert "from step 4" in longer.stderr
    assert json.loads(longer.stdout)["step"] == 6


def test_what_cannot_be_trained_is_refused_in_a_sentence(data: Path, trained: dict[str, Any]) -> None:
    for overrides, code, part in [
        (["workers=1000", "batch_size=1000"], 4, "workers=1000"),
        ([f"train={data / 'few.jsonl'}", f"run={data / 'other'}"], 2, "batch_size=8"),
        ([f"train={data / 'bad.jsonl'}", f"run={data / 'other'}"], 2, "bad.jsonl"),
        (["epochs=3", "lr=1e-4"], 2, "optim.lr was 0.003"),  # it is finished
        (["workers=2"], 2, "another run="),  # its checkpoint is of one process
    ]:
        done = run("jobs.sft", *arguments(data, *overrides), timeout=300)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == code, done.stderr
        assert last.startswith("error: ") and part in last
        assert "Traceback" not in done.stderr
