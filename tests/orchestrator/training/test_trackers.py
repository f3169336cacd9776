"""wandb in a trainer, the real one without its server: one run over all attempts, and no error of its own gets out."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb

from orchestrator.spec import WandbSpec
from orchestrator.tracking import continued, unsent
from orchestrator.training.environment import FOLDER_VARIABLE, worker_env
from orchestrator.training.folder import Journal, TrainingFolder
from tests.support.wandb_files import history

OFFLINE = WandbSpec(project="sums", mode="offline")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "deadbeef" * 5)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb, "run", None)  # and is so again afterwards
    yield tmp_path
    with suppress(ConnectionError):  # where the test has killed its service
        wandb.teardown()


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch, spec: WandbSpec, **more: str) -> Any:
    """What an attempt does."""
    for name, value in {**continued(folder, spec), **more}.items():
        monkeypatch.setenv(name, value)
    from orchestrator.training.trainer.trackers import open_trackers

    return open_trackers(project_name="sums", experiment_name="n", default_backend=["wandb"], config={"trainer": {}})


def written(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.replace("\n", " ")


def test_a_run_folder_has_one_run(tmp_path: Path) -> None:
    first, again, other = (continued(tmp_path / name, OFFLINE) for name in ("a", "a", "b"))
    assert first["WANDB_RUN_ID"] == again["WANDB_RUN_ID"] != other["WANDB_RUN_ID"]
    (tmp_path / "a").rename(tmp_path / "moved")
    assert continued(tmp_path / "moved", OFFLINE)["WANDB_RUN_ID"] == first["WANDB_RUN_ID"]
    assert continued(tmp_path, WandbSpec()) == {} and not (tmp_path / "wandb_run_id").exists()


def test_workers_get_all_of_it_and_no_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = continued(folder, WandbSpec(project="sums", entity="us"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert variables.items() <= worker_env(cpu=False).items()
    assert worker_env(cpu=False)["WANDB_BASE_URL"] == "http://127.0.0.1:9"
    assert "WANDB_API_KEY" not in worker_env(cpu=False)


def test_a_server_that_does_not_answer_is_waited_for_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    online = WandbSpec(project="sums")
    trackers = begin(folder, monkeypatch, online, WANDB_INIT_TIMEOUT="2")
    assert f"writing offline below {folder}/wandb" in said(capsys)
    trackers.log(data={"loss": 1.0}, step=1)
    trackers.finish()
    assert unsent(folder) and len(written(folder)) == 1
    trackers = begin(folder, monkeypatch, online, WANDB_MODE="online")  # the next attempt of the same job
    trackers.finish()
    assert len(written(folder)) == 2 and len(list((folder / "wandb").glob("run-*"))) == 1
    assert continued(folder, online)["WANDB_MODE"] == "offline"
    for file in written(folder):
        file.with_suffix(".wandb.synced").touch()  # as `wandb sync` does
    assert continued(folder, online)["WANDB_MODE"] == "online"


def test_a_service_that_dies_costs_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trackers = begin(folder, monkeypatch, OFFLINE)
    trackers.log(data={"loss": 1.0}, step=1)
    [service] = [child for child in psutil.Process().children() if "wandb-core" in child.name()]
    service.kill()
    service.wait()
    for step in (2, 3, 4):
        trackers.log(data={"loss": 1.0}, step=step)
    trackers.finish()
    text = said(capsys)
    assert text.count("warning: wandb") == 1 and f"the figures are in {folder}/training.jsonl" in text


def test_offline_a_step_is_written_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(TrainingFolder(folder)).step(3, {"loss": 1.0})
    trackers = begin(folder, monkeypatch, OFFLINE)
    for step in (2, 3, 4):
        trackers.log(data={"loss": float(step)}, step=step)
    trackers.finish()
    [file] = written(folder)
    assert history(file, "loss") == {4: 4.0}
