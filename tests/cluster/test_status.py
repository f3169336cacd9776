"""What status says of a cluster: whole, short of a node, silent, without its job, and a real one."""

import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import this_machine
from cluster.commands.status import Status, exit_code, gather
from cluster.commands.status_text import as_json, render
from cluster.folder.cluster_folder import ClusterFolder
from cluster.probes.exporter import scrape
from cluster.state import ClusterState, Node, write_token
from tests.support.scripted_cluster import SECRET, TOKEN, Answering, ScriptedSlurm, ray_node


def both_texts(status: Status) -> str:
    return render(status) + as_json(status)


def test_a_whole_cluster_is_shown_from_both_sides(answering: Answering, scripted_slurm: ScriptedSlurm) -> None:
    # n2's raylet died and came back: Ray lists both, the dead one last
    status = gather(answering([ray_node(1), ray_node(2, start=5), ray_node(2, "DEAD", start=1)]))
    assert (status.verdict, exit_code(status), status.advice) == ("ready", 0, [])
    assert [(node.name, node.ray, node.scheduler) for node in status.nodes] == [
        ("n1", "alive", "alloc"),
        ("n2", "alive", "down*"),
    ]
    node = status.nodes[1]
    assert (node.cpus, node.gpus, node.cpu_percent) == (64, 2, 12.5)
    assert (node.memory_used_mib, node.memory_total_mib) == (16 * 1024, 64 * 1024)
    assert node.gpu_use and [gpu.utilization_percent for gpu in node.gpu_use] == [97, None]
    text = render(status)
    assert "2 of 2 nodes" in text
    assert "time left 02:30:00" in text
    assert re.search(r"qwen +DEPLOYING +engine +UPDATING +1 of 2", text)
    assert "97 ?" in text and "70.0 1.0 of 140.0" in text
    assert "models=[a,b]' and=so" in text  # brackets stay, the line break does not
    assert status.jobs and [job.id for job in status.jobs] == ["raysubmit_1", "02000000"]


def test_nothing_of_a_runtime_environment_is_shown(answering: Answering, scripted_slurm: ScriptedSlurm) -> None:
    text = both_texts(gather(answering([ray_node(1), ray_node(2)])))
    assert "raysubmit_1" in text
    assert SECRET not in text and TOKEN not in text


@pytest.mark.parametrize("nodes", [[ray_node(1)], [ray_node(1), ray_node(2, "DEAD")]])
def test_a_lost_node_is_said_loudly_and_the_rest_goes_on(
    answering: Answering, scripted_slurm: ScriptedSlurm, nodes: list[dict[str, Any]]
) -> None:
    status = gather(answering(nodes))
    assert (status.verdict, exit_code(status)) == ("degraded", 0)
    assert status.nodes[1].gpu_use is None and status.nodes[1].cpu_percent is None
    text = render(status)
    assert "DEGRADED: 1 of 2 nodes, without n2" in text
    assert "--heal" in text


def test_a_replacement_that_a_helper_job_brought_counts(answering: Answering, scripted_slurm: ScriptedSlurm) -> None:
    job = "JobState=RUNNING Reason=None TimeLimit=UNLIMITED RunTime=00:01:00 ExitCode=0:0"
    scripted_slurm(f"echo JobId=$4 NodeList=n[1-2] {job}")
    lost = [Node("n9", "10.0.0.9", cpus=64, gpus=2)]
    head = [Node("n1", "10.0.0.1", cpus=64, gpus=2)]
    state = answering([ray_node(1), ray_node(2)], nodes=head + lost)
    ClusterFolder("c").add_helper("8")
    status = gather(state)
    assert [(node.name, node.ray) for node in status.nodes] == [("n1", "alive"), ("n9", "missing"), ("n2", "alive")]
    assert status.verdict == "ready"
    assert status.batch_jobs and [one.id for one in status.batch_jobs] == ["7", "8"]


def test_what_was_not_reported_is_not_measured(answering: Answering, scripted_slurm: ScriptedSlurm) -> None:
    status = gather(answering([ray_node(1), ray_node(2, seen=False)]))
    node = status.nodes[1]
    assert (node.ray, node.cpu_percent, node.memory_used_mib, node.gpu_use) == ("alive", None, None, None)
    assert "not measured" in next(line for line in render(status).splitlines() if line.startswith("n2 "))


def test_a_cluster_that_hangs_is_given_up_in_time(answering: Answering, scripted_slurm: ScriptedSlurm) -> None:
    scripted_slurm("exec sleep 8")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        state = answering([], dashboard_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        status = gather(state)
        assert time.monotonic() - start < 5
    assert (status.verdict, exit_code(status)) == ("not answering", 4)
    assert (status.jobs, status.applications, status.batch_jobs) == (None, None, None)
    assert all(node.ray is None and node.scheduler is None for node in status.nodes)
    text = render(status)
    assert "does NOT ANSWER" in text and "scontrol ping" in text and "make cluster-down NAME=c" in text


def test_a_wrong_token_is_no_answer(answering: Answering, scripted_slurm: ScriptedSlurm) -> None:
    state = answering([ray_node(1), ray_node(2)])
    write_token("c", "another")
    status = gather(state)
    assert (status.verdict, exit_code(status), status.jobs) == ("not answering", 4, None)


@pytest.mark.parametrize(
    "show_job",
    [
        "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        "echo JobId=7 JobState=TIMEOUT Reason=TimeLimit NodeList=n[1-2] ExitCode=0:0",
    ],
)
def test_a_job_that_is_gone_names_the_next_commands(
    answering: Answering, scripted_slurm: ScriptedSlurm, show_job: str
) -> None:
    scripted_slurm(show_job)
    status = gather(answering([], dashboard_url="http://127.0.0.1:9"))
    assert (status.verdict, exit_code(status)) == ("gone", 4)
    text = render(status)
    assert "the state file says ready" in text
    assert "make cluster-down NAME=c" in text and "make cluster-up SITE=osk NAME=c NODES=2" in text


def test_a_queued_cluster_shows_the_reason_and_asks_no_dashboard(
    answering: Answering, scripted_slurm: ScriptedSlurm
) -> None:
    scripted_slurm("echo JobId=7 JobState=PENDING Reason=Resources 'NodeList=(null)' ExitCode=0:0")
    status = gather(answering([], phase="queued", nodes=[], dashboard_url="", ray_address=""))
    assert (status.verdict, exit_code(status)) == ("queued", 4)
    assert "PENDING (Resources)" in render(status)


def test_a_failed_cluster_says_why(answering: Answering, scripted_slurm: ScriptedSlurm) -> None:
    scripted_slurm("echo JobId=7 JobState=FAILED Reason=NonZeroExitCode NodeList=n[1-2] ExitCode=4:0")
    status = gather(answering([], phase="failed", problem="n2: GPU 3 has fallen off", dashboard_url=""))
    assert (status.verdict, exit_code(status)) == ("failed", 4)
    assert "GPU 3 has fallen off" in render(status)


def test_a_real_cluster_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoints and the names of fields and metrics are Ray's, and may change with it."""
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    try:
        state, _ = this_machine.up("real")
        status, figures = _as_soon_as_reported(state)
    finally:
        this_machine.down("real")
    node = status.nodes[0]
    assert (status.verdict, exit_code(status), node.ray) == ("ready", 0, "alive")
    assert node.cpus and node.memory_total_mib and node.memory_used_mib and node.cpu_percent is not None
    assert (status.jobs, status.applications, status.batch_jobs) == ([], [], None)
    assert "Slurm" not in render(status)
    assert set(figures[""]) == {"cpu_utilization", "mem_used", "mem_total", "mem_available"}
    assert exit_code(gather(state)) == 4  # it is down by now


def _as_soon_as_reported(state: ClusterState) -> tuple[Status, dict[str, dict[str, float]]]:
    """The agent's first report comes some seconds after the node."""
    deadline = time.monotonic() + 90  # of a busy machine
    while True:
        status = gather(state)
        figures = scrape(f"127.0.0.1:{state.ports['metrics_export']}") or {}
        told = status.nodes[0].cpu_percent is not None and status.applications is not None and "" in figures
        if told or time.monotonic() > deadline:
            return status, figures
        time.sleep(0.3)
