"""Waiting for a cluster's nodes and for Slurm's controller, and what the state folder keeps of it."""

import json
import time
from pathlib import Path

import pytest

from cluster.commands import batch_system, heal
from cluster.commands.batch_system import BatchSystem
from cluster.folder.cluster_folder import ClusterFolder
from cluster.schedulers import base
from cluster.schedulers.base import scheduler_of
from cluster.state import cluster_dir, read_state, write_state
from tests.support.scripted_cluster import Answering, ScriptedSlurm, ray_node

SLURM = scheduler_of("slurm")
HELPER = """
case $4 in 8) echo JobId=8 JobState={state} Reason=Resources NodeList={nodes};; *) echo JobId=7 JobState=RUNNING;; esac
"""


@pytest.mark.parametrize(("state", "nodes"), [("PENDING", ""), ("RUNNING", "n3")])
def test_a_replacement_that_waits_or_boots_is_not_asked_for_twice(
    answering: Answering, scripted_slurm: ScriptedSlurm, state: str, nodes: str
) -> None:
    scripted_slurm(HELPER.format(state=state, nodes=nodes))
    write_state(answering([ray_node(1)]))
    ClusterFolder("c").add_helper("8")
    said: list[str] = []
    heal.heal("c", said.append)
    assert said == ["a replacement is on its way already: job 8"]


def test_a_cluster_is_not_healed_before_its_nodes_are_there(
    answering: Answering, scripted_slurm: ScriptedSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state file may say `ready` for some seconds after a node is lost."""
    scripted_slurm(HELPER.format(state="RUNNING", nodes="n3"))
    monkeypatch.setattr(heal, "POLL", 0.05)
    nodes = [ray_node(1)]
    write_state(answering(nodes))
    ClusterFolder("c").add_helper("8")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        nodes.append(ray_node(3))

    assert heal.wait_healed("c", say).phase == "ready"
    assert said == ["waiting for the nodes; replacement running (Resources)"]


SILENT_ONCE = """
if [ -e {mark} ]; then echo JobId=7 JobState={then} Reason=None NodeList=n1
else touch {mark}; echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1; fi
"""


def test_a_controller_that_is_away_for_a_while_ends_no_wait(
    answering: Answering,
    scripted_slurm: ScriptedSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(batch_system, "QUEUE_POLL", 0.1)
    mark = tmp_path / "asked"
    scripted_slurm(SILENT_ONCE.format(mark=mark, then="PENDING"))
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if mark.exists() and "does not answer" not in line:
            write_state(answering([]))

    assert BatchSystem(SLURM).wait_ready("c", "7", say).phase == "ready"
    assert said == ["queued: Slurm does not answer", "queued"]

    mark.unlink()
    scripted_slurm(SILENT_ONCE.format(mark=mark, then="COMPLETED"))
    log = cluster_dir("c") / "logs" / "7.log"
    log.parent.mkdir()
    log.write_text("what it printed\n")
    ClusterFolder("c").event_log("7").write("ended", code=3)
    assert BatchSystem(SLURM).follow("c", "7", said.append) == 3
    assert capfd.readouterr().out == "what it printed\n"


def test_a_controller_that_never_answers_ends_the_wait(scripted_slurm: ScriptedSlurm) -> None:
    scripted_slurm("echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1")
    observer = base.Observer(SLURM, patience=0.3)
    seen = observer.poll("7")
    assert seen and seen.state == base.UNKNOWN and not seen.ended
    with pytest.raises(base.Silent, match="scontrol ping"):
        observer.ask("7", pause=lambda _: time.sleep(0.1))


def test_a_state_file_of_an_older_version_is_read(answering: Answering) -> None:
    state = answering([])
    write_state(state)
    file = cluster_dir("c") / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"helpers": ["8"]}))
    assert read_state("c") == state


def test_torn_events_do_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    folder = ClusterFolder("c")
    path = folder.path / "events.jsonl"
    path.parent.mkdir(parents=True)
    events = folder.event_log("7")
    events.write("one")
    with path.open("a") as file:
        file.write('{"job": "7", "ev\n')
    events.write("two")
    assert [event["event"] for event in folder.events()] == ["one", "two"]
