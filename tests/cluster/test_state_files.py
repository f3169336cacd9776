"""Odd and stale state files, folders that are not ours, and names: a sentence, and nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.__main__ import main
from cluster.files import REPOSITORY
from cluster.folder.cluster_folder import ClusterFolder
from cluster.machine import temp_dirs
from cluster.state import ClusterState, cluster_dir, is_damaged, known, load_state, read_state, write_state

STATE: dict[str, Any] = {
    "name": "c",
    "phase": "ready",
    "scheduler": "local",
    "job_id": None,
    "nodes": [{"name": "h", "ip": "127.0.0.1", "cpus": 1, "gpus": 0}],
    "ray_address": "127.0.0.1:9",
    "dashboard_url": "http://127.0.0.1:9",
    "ports": {"dashboard": 9},
    "run_root": "/r",
    "started_at": "2026-01-01T00:00:00+00:00",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def write(text: str | bytes, name: str = "c") -> Path:
    folder = cluster_dir(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def command(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"KOSEN_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


CHANGES: list[dict[str, Any]] = [
    {"nodes": None},
    {"nodes": [7]},
    {"nodes": [{"name": "h"}]},
    {"ports": []},
    {"ports": {"dashboard": "x"}},
    {"pids": 7},
    {"pids": {"head": "1"}},
    {"phase": "new"},
    {"phase": None},
    {"job_id": 7},
    {"job_id": ["7"]},
    {"name": "d"},
    {"name": "../c"},
    {"name": None},
    {"temp_dir": 7},
    {"expected_nodes": "two"},
    {"ray_address": None},
    {"dashboard_url": {}},
]
DAMAGED = "cannot be read"
ODD = [
    b"",
    b"\xff\xfe{}",
    b"null",
    b"[]",
    b"7",
    b'"c"',
    b"{}",
    b'{"name": "c"',
    b"[" * 100_000,
    *[json.dumps(STATE | change).encode() for change in CHANGES],
]


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[-60:].decode(errors="replace"))
def test_an_odd_state_is_none_and_not_forgotten(text: bytes) -> None:
    write(text)
    assert read_state("c") is None
    assert known() == []
    assert is_damaged("c")


def test_what_else_lies_among_the_clusters_is_passed_over(home: Path) -> None:
    write(json.dumps(STATE | {"something_new": 1}))
    (home / "clusters" / ".DS_Store").write_text("x")
    (home / "clusters" / "empty").mkdir()
    assert known() == ["c"]
    assert not is_damaged(".DS_Store") and not is_damaged("empty")


@pytest.mark.parametrize("text", [b"[7]", json.dumps(STATE | {"ports": 7}).encode()])
def test_every_command_has_a_sentence_for_an_odd_state(home: Path, text: bytes) -> None:
    folder = write(text)
    for verb, said in (("status", "no cluster 'c'"), ("env", "no cluster 'c'"), ("down", DAMAGED), ("up", DAMAGED)):
        done = command(home, verb, "--name", "c")
        assert (done.returncode, done.stdout) == (4, "")
        assert said in done.stderr and "Traceback" not in done.stderr
    assert (folder / "state.json").exists()


def test_a_home_that_can_be_none_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KOSEN_HOME", "~nobody-here/kosen")
    assert main(["status"]) == 2
    assert capsys.readouterr().err.startswith("error: ~nobody-here/kosen is not a valid path: there is no home folder")


def test_a_state_that_names_no_job_is_not_one_to_end() -> None:
    """Jobs read it; `down` would forget what it cannot cancel."""
    write(json.dumps({name: value for name, value in STATE.items() if name != "job_id"}))
    assert load_state("c") and read_state("c") is None and is_damaged("c")


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../local", "-x", "local\n", "a/b", "a" * 42, "ä", "local "])
def test_a_name_that_is_none_takes_nothing_down(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = write(json.dumps(STATE | {"name": "local"}), "local")
    for verb in (["down"], ["status"], ["up", "--site", "local", "--dry-run"], ["up", "--heal"]):
        assert main([*verb, f"--name={name}"]) == 2
        assert "is not a valid cluster name" in capsys.readouterr().err
    assert (folder / "state.json").exists()


def test_down_leaves_a_folder_that_is_not_ours(home: Path, tmp_path: Path) -> None:
    """A state file of long ago, in whose folder somebody now keeps something else."""
    theirs = tmp_path / "thesis"
    (theirs / "r").mkdir(parents=True)
    (theirs / "chapter.tex").write_text("years of work")
    write(json.dumps(STATE | {"temp_dir": str(theirs / "r")}))
    done = command(home, "down", "--name", "c")
    assert done.returncode == 0, done.stderr
    assert "not a folder of Kosen's" in done.stderr and "Traceback" not in done.stderr
    assert (theirs / "chapter.tex").read_text() == "years of work"
    assert read_state("c") is None


def test_down_removes_its_own_folder(home: Path, tmp_path: Path) -> None:
    ours = Path(temp_dirs.make_temp_dir(str(tmp_path), "ray-"))
    write(json.dumps(STATE | {"temp_dir": str(ours)}))
    done = command(home, "down", "--name", "c")
    assert (done.returncode, done.stderr) == (0, "cluster 'c' is down, 0 processes ended\n")
    assert not ours.parent.exists()


def unmarked(folder: Path) -> Path:
    (folder / "x" / "r").mkdir(parents=True)
    return folder / "x" / "r"


def anothers_mark(folder: Path) -> Path:
    """A copy of a folder of ours, mark and all."""
    path = unmarked(folder)
    (path.parent / temp_dirs.MARK).write_text(str(folder / "y"))
    return path


def link_to_ours(folder: Path) -> Path:
    made = Path(temp_dirs.make_temp_dir(str(folder), "k-"))
    (folder / "link").symlink_to(made.parent)
    return folder / "link" / "r"


def not_the_inner_one(folder: Path) -> Path:
    return Path(temp_dirs.make_temp_dir(str(folder), "k-")).parent


@pytest.mark.parametrize("make", [unmarked, anothers_mark, link_to_ours, not_the_inner_one])
def test_only_what_carries_our_mark_is_removed(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert temp_dirs.remove_temp_dir(str(path)) is False
    assert sorted(tmp_path.rglob("*")) == before


def test_the_sweep_leaves_what_only_has_our_name(tmp_path: Path) -> None:
    theirs = tmp_path / f"kosen-{os.getuid()}-notes"
    theirs.mkdir()
    ours, lock = temp_dirs.new_temp_dir(str(tmp_path), "7")
    assert temp_dirs.sweep(str(tmp_path)) == []  # it is in use
    lock.close()
    assert temp_dirs.sweep(str(tmp_path)) == [Path(ours).parent.name]
    assert list(tmp_path.glob("kosen-*")) == [theirs] and list(theirs.iterdir()) == []


@pytest.mark.parametrize(
    "text", [b"5", b"null", b'"x"', b"[]", b'{"jobs": 5}', b'{"jobs": null}', b'{"jobs": [1]}', b"\xff"]
)
def test_an_odd_list_of_helpers_is_none(home: Path, text: bytes) -> None:
    write(b"{}")
    cluster_dir("c").joinpath("helpers.json").write_bytes(text)
    assert ClusterFolder("c").helpers() == []


def test_a_state_survives_being_written(home: Path) -> None:
    state = ClusterState("c", "degraded", "slurm", "7", [], "h:1", "u", {"gcs": 1}, "/r", "t", problem="without n2")
    write_state(state)
    assert read_state("c") == state


def test_a_state_of_before_the_rooms_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """As commit d10e50b wrote it, on another host that shares the home folder."""
    write((Path(__file__).parent / "kept" / "state.json").read_bytes(), "local")
    state = read_state("local")
    assert state and state.nodes[0].cpus == 16 and state.ports["serve"] == 26032
    assert main(["status", "--name", "local"]) == 4
    assert "NOT ANSWER" in capsys.readouterr().out
    assert main(["down", "--name", "local"]) == 4
    assert "runs on lab-box" in capsys.readouterr().err
    assert known() == ["local"]
