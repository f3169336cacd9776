"""Who may read run folders, under any umask."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import ProfileError
from cluster.schedulers.sites import load_site
from orchestrator.errors import StorageFailed
from orchestrator.events import Events
from orchestrator.files import write_as_open_as, write_atomic
from orchestrator.ray_cluster.find import mode_of
from orchestrator.records.lock import Owner, RunLock
from orchestrator.records.log import RecordLog
from orchestrator.records.types import AnswerKey, Prediction, answer_key
from tests.support.harness import state_with


@pytest.fixture(params=[0o022, 0o000, 0o077], autouse=True)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> str:
    return f"{path.stat().st_mode & 0o777:o}"


def fill(folder: Path) -> dict[str, str]:
    """All ways in which a run writes files; their modes by name."""
    RecordLog[Prediction, AnswerKey](folder / "predictions.jsonl", answer_key, lambda _: ()).close()
    Events(folder).add("planned")
    write_atomic(folder / "spec.yaml", "model: m\n")
    write_as_open_as(folder)
    (folder / "leaderboard").mkdir()
    (folder / "leaderboard" / "results.jsonl").write_text("{}\n")
    return {path.name: mode(path) for path in folder.rglob("*")}


def test_a_run_folder_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "suite" / "run"
    RunLock(folder, Owner("here", 1)).release()
    assert mode(folder) == "700"
    assert mode(folder.parent) == f"{0o777 & ~umask:o}"  # it shows a name and no more
    modes = fill(folder)
    assert modes.pop("leaderboard") == "700"
    assert set(modes.values()) == {"600"} and len(modes) == 5


def test_a_site_may_open_it_to_a_group(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "run"
    RunLock(folder, Owner("here", 1), mode=mode_of(state_with(run_mode="0750"))).release()
    assert mode(folder) == "750"
    modes = fill(folder)
    strict = umask == 0o077  # of the user's own, which counts
    assert modes.pop("leaderboard") == ("700" if strict else "750")
    assert set(modes.values()) == {"600" if strict else "640"}


def test_a_folder_that_exists_keeps_what_its_owner_gave_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o750)
    RunLock(folder, Owner("here", 1)).release()
    assert mode(folder) == "750"


def test_a_file_in_the_folders_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StorageFailed):
        RunLock(tmp_path / "run", Owner("here", 1))


@pytest.mark.parametrize(("given", "wanted"), [("0750", 0o750), ("0770", 0o770), ("755", 0o755), ("0700", 0o700)])
def test_the_profiles_key_reaches_the_state(given: str, wanted: int) -> None:
    for site in ("local", "slurm"):
        assert mode_of(state_with(run_mode=load_site(site, [f"run_mode={given}"]).run_mode)) == wanted


@pytest.mark.parametrize("given", ["0600", "rwx", "0o750", "07777", "8", "0078", "private"])
def test_a_mode_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(ProfileError, match="run_mode"):
        load_site("local", [f"run_mode={given}"])


def test_clusters_of_before_have_private_runs() -> None:
    assert mode_of(None) == mode_of(state_with()) == 0o700
