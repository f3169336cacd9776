"""Checkpoints are whole or not used: seals, faults of all kinds, what is set aside and what is removed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orchestrator.training.checkpoints import checkpoints


def save(root: Path, step: int, *, sealed: bool = True) -> Path:
    """A checkpoint as verl lays it out, small."""
    folder = root / f"global_step_{step}"
    (folder / "actor/huggingface").mkdir(parents=True)
    torch.save({"weight": torch.full((64,), float(step))}, folder / "actor/model_world_size_1_rank_0.pt")
    torch.save({"position": step}, folder / "data.pt")
    (folder / "actor/huggingface/config.json").write_text("{}")
    if sealed:
        checkpoints.seal(folder)
    return folder


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def tracker(root: Path) -> str | None:
    path = root / "latest_checkpointed_iteration.txt"
    return path.read_text() if path.exists() else None


def truncate(folder: Path) -> None:
    os.truncate(folder / "data.pt", 100)


def blank(folder: Path) -> None:
    """The right size and nothing in it, as after a power cut."""
    path = folder / "actor/model_world_size_1_rank_0.pt"
    path.write_bytes(bytes(path.stat().st_size))


def remove(folder: Path) -> None:
    (folder / "actor/huggingface/config.json").unlink()


def break_seal(folder: Path) -> None:
    (folder / "kosen.json").write_bytes(b'{"data.pt": 1')


def list_as_seal(folder: Path) -> None:
    (folder / "kosen.json").write_bytes(b'["data.pt"]')


def test_a_sealed_checkpoint_is_whole_and_holds_exactly_what_was_saved(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    assert checkpoints.check(folder) is None
    assert names(folder) == {"actor", "data.pt", "kosen.json"}
    checkpoints.seal(folder)  # a step that was saved twice
    assert checkpoints.check(folder) is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "data.pt has 100 bytes"),
        (blank, "model_world_size_1_rank_0.pt cannot be read"),
        (remove, "config.json is missing"),
        (break_seal, "seal of global_step_10 cannot be read"),
        (list_as_seal, "seal of global_step_10 cannot be read"),
    ],
)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    save(tmp_path, 5)
    damage(save(tmp_path, 10))
    assert checkpoints.newest_good(tmp_path) == 5
    step, remarks = checkpoints.choose(tmp_path)
    assert step == 5
    assert tracker(tmp_path) == "5"
    assert len(remarks) == 1 and words in remarks[0] and "global_step_10.bad-1" in remarks[0]
    assert names(tmp_path) == {"global_step_5", "global_step_10.bad-1", "latest_checkpointed_iteration.txt"}


@pytest.mark.parametrize("name", ["global_step_007", "global_step_٩", "global_step_9 old", "global_step_-9"])
def test_a_folder_that_verl_does_not_name_so_is_left_alone(tmp_path: Path, name: str) -> None:
    save(tmp_path, 5)
    (tmp_path / name).mkdir()
    assert checkpoints.choose(tmp_path) == (5, [])
    checkpoints.prune(tmp_path, 1)
    assert (tmp_path / name).is_dir()


def test_a_step_can_go_bad_twice_and_both_are_kept(tmp_path: Path) -> None:
    for _ in range(2):
        truncate(save(tmp_path, 10))
        assert checkpoints.choose(tmp_path)[0] is None
    assert {"global_step_10.bad-1", "global_step_10.bad-2"} == names(tmp_path)


def test_without_a_good_checkpoint_verl_starts_at_the_beginning(tmp_path: Path) -> None:
    assert checkpoints.choose(tmp_path / "none yet") == (None, [])
    save(tmp_path, 5, sealed=False)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    step, remarks = checkpoints.choose(tmp_path)
    assert step is None and "did not finish" in remarks[0]
    assert names(tmp_path) == {"global_step_5.partial-1"}


def test_pruning_keeps_the_newest_and_removes_leftovers(tmp_path: Path) -> None:
    for step in (2, 4, 6, 10):
        save(tmp_path, step)
    save(tmp_path, 3, sealed=False)
    save(tmp_path, 12, sealed=False)  # being saved right now
    (tmp_path / "global_step_1.deleting").mkdir()
    (tmp_path / "global_step_7.partial-1").mkdir()
    (tmp_path / "global_step_8.bad-1").mkdir()
    (tmp_path / "notes").mkdir()
    checkpoints.prune(tmp_path, None)
    assert {"global_step_2", "global_step_4", "global_step_6"} <= names(tmp_path)
    checkpoints.prune(tmp_path, 2)
    assert names(tmp_path) == {"global_step_6", "global_step_10", "global_step_12", "global_step_8.bad-1", "notes"}


def test_pruning_never_removes_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        save(tmp_path, step)
    truncate(tmp_path / "global_step_6")
    truncate(tmp_path / "global_step_8")
    checkpoints.prune(tmp_path, 1)
    assert names(tmp_path) == {"global_step_4", "global_step_8"}


def test_a_prune_killed_at_any_moment_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    module = "orchestrator.training.checkpoints.checkpoints"
    script = f"import sys, pathlib; from {module} import prune; prune(pathlib.Path(sys.argv[1]), 1)"
    for number in range(6):
        root = tmp_path / str(number)
        for step in range(1, 9):
            folder = root / f"global_step_{step}"
            folder.mkdir(parents=True)
            for part in range(100):
                (folder / f"part-{part}").write_bytes(b"x")
            (folder / "kosen.json").write_text(json.dumps({f"part-{part}": 1 for part in range(100)}))  # fsync is slow
        prune = subprocess.Popen([sys.executable, "-c", script, str(root)])
        deadline = time.monotonic() + 60
        while prune.poll() is None and (root / "global_step_1").exists() and time.monotonic() < deadline:
            time.sleep(0.0005)
        time.sleep(0.002 * number)
        prune.send_signal(signal.SIGKILL)
        prune.wait()
        whole = [path for path in root.iterdir() if path.suffix == ""]
        assert root / "global_step_8" in whole
        assert [checkpoints.check(path) for path in whole] == [None] * len(whole)
        checkpoints.prune(root, 1)
        assert names(root) == {"global_step_8"}
