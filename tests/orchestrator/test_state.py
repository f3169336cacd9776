"""State files that are not valid: skipped, or reported in a sentence where one was named."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ClusterNotReady
from orchestrator.ray_cluster.find import (
    current,
    find_path,
    known_gpus,
    mode_of,
    read_state,
    run_root,
    states,
    status_code,
)
from tests.support.harness import state_with

STATE: dict[str, Any] = {
    "name": "a",
    "phase": "ready",
    "scheduler": "slurm",
    "nodes": [{"name": "n1", "ip": "10.0.0.1", "cpus": 8, "gpus": 4}],
    "ray_address": "10.0.0.1:6379",
    "dashboard_url": "http://127.0.0.1:1",
    "ports": {"serve": 8000},
    "run_root": "/runs",
    "ephemeral": False,
}
QUEUED: dict[str, Any] = STATE | {"phase": "queued", "nodes": [], "ports": {}, "ray_address": "", "dashboard_url": ""}
NEEDED = [name for name in STATE if name != "ephemeral"]
ODD_NODES: list[Any] = [[], ["n1"], [{}], [{"name": "n", "ip": "i", "gpus": "4"}]]
ODD: list[Any] = [
    *([], "x", 5, None, {}, {"name": "a"}),
    *({name: value for name, value in STATE.items() if name != missing} for missing in NEEDED),
    *(STATE | {name: 5} for name in STATE),
    *(STATE | {"nodes": nodes} for nodes in ODD_NODES),
    *(STATE | {"ports": ports} for ports in ({}, {"serve": "8000"})),
    STATE | {"name": "b"},
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_ADDRESS", "KOSEN_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    folder = tmp_path / "clusters" / "a"
    folder.mkdir(parents=True)
    return folder / "state.json"


@pytest.mark.parametrize("state", [STATE, QUEUED], ids=["ready", "queued"])
def test_a_state_is_read(file: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(json.dumps(state))
    [found] = states()
    assert dataclasses.asdict(found) | state == dataclasses.asdict(found)
    monkeypatch.setenv("KOSEN_CLUSTER", "a")
    assert (current(), run_root()) == (found, Path("/runs"))
    assert known_gpus() == sum(node["gpus"] for node in state["nodes"])


MAY_LACK = ("ephemeral", "run_mode", "expected_nodes", "job_id", "started_at", "pids", "temp_dir", "host", "site")


@pytest.mark.parametrize("missing", [*MAY_LACK, "cpus"])
def test_what_older_versions_did_not_write_is_not_missed(file: Path, missing: str) -> None:
    nodes = [{"name": f"n{number}", "ip": "10.0.0.1", "cpus": 8, "gpus": 4} for number in range(3)]
    whole = dataclasses.asdict(state_with(name="a", nodes=nodes, job_id="7", started_at="now"))
    for holder in (whole, *whole["nodes"]):
        holder.pop(missing, None)
    file.write_text(json.dumps(whole | {"something_new": 1}))
    state = read_state("a")
    assert state and (state.expected_nodes, len(state.nodes), mode_of(state), state.ephemeral) == (3, 3, 0o700, False)


@pytest.mark.parametrize("content", [*map(json.dumps, ODD), "{ torn", "", "\x00", "[" * 100_000, "9" * 5000])
def test_what_is_no_state_is_told_in_a_sentence(file: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(content)
    assert states() == []
    for named in (False, True):  # unnamed it may be the cluster that was meant: another is not started instead
        if named:
            monkeypatch.setenv("KOSEN_CLUSTER", "a")
        with pytest.raises(ClusterNotReady, match=r"a/state\.json is not a valid cluster state") as told:
            current()
        assert "\n" not in str(told.value)


def test_other_files_and_folders_are_no_clusters(file: Path) -> None:
    (file.parent.parent / "notes.txt").write_text("x")
    (file.parent.parent / "empty").mkdir()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ClusterNotReady):
        read_state("a")
    file.unlink()
    assert (states(), current(), read_state("notes.txt"), read_state("none")) == ([], None, None, None)
    file.mkdir()
    with pytest.raises(ClusterNotReady, match="Is a directory"):
        read_state("a")


@pytest.mark.parametrize("url", ["x", "", "http://[", "http://127.0.0.1:1", "file:///etc/passwd", "http://h:x"])
def test_an_address_that_is_none_does_not_answer(file: Path, url: str) -> None:
    (file.parent / "token").write_text("t")
    assert status_code(state_with(name="a", dashboard_url=url)) is None


@pytest.mark.parametrize(
    "name", ["~no-such-user/x", "~no-such-user", "a\0b", "~\0", "~\ud83d", "\ud83d", "\0", "x" * 300, "~/" + "y" * 5000]
)
def test_what_can_be_no_path_is_left_as_it_is(file: Path, name: str) -> None:
    assert find_path(name) == name
