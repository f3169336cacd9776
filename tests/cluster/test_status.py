"""What status and tunnel say of a cluster: whole, short of a node, silent, without its job, and a real one."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.commands import batch_system, heal, this_machine
from cluster.commands.batch_system import BatchSystem
from cluster.commands.status import Status, exit_code, gather
from cluster.commands.status_text import as_json, render
from cluster.commands.tunnel import tunnel_lines
from cluster.folder.events import EventLog, read_events
from cluster.folder.job_files import add_helper
from cluster.probes.exporter import scrape
from cluster.schedulers import base
from cluster.schedulers.base import scheduler_of
from cluster.state import ClusterState, cluster_dir, read_state, token_path, write_state, write_token

SLURM = scheduler_of("slurm")
TOKEN = "the-right-token"
SECRET = "planted-hunter2"


class Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray 2.60's dashboard does, to its token only."""

    answers: Mapping[str, Any]

    def do_GET(self) -> None:
        allowed = self.headers["Authorization"] == f"Bearer {TOKEN}"
        body = json.dumps(self.answers[self.path] if allowed else {}).encode()
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def ray_node(number: int, state: str = "ALIVE", *, start: int = 1, seen: bool = True) -> dict[str, Any]:
    """A node of `/nodes?view=summary`; `seen`: whether its agent has reported yet."""
    raylet = {
        "nodeManagerAddress": f"10.0.0.{number}",
        "nodeManagerHostname": f"n{number}",
        "state": state,
        "startTimeMs": str(start),
        "resourcesTotal": {"CPU": 64.0, "GPU": 2.0, "memory": 1.0},
    }
    gpus = [
        {"index": 0, "utilizationGpu": 97, "memoryUsed": 71680, "memoryTotal": 143360},
        {"index": 1, "utilizationGpu": None, "memoryUsed": 1024, "memoryTotal": 143360},
    ]
    figures = {"cpu": 12.5, "mem": [64 * 1024**3, 48 * 1024**3, 25.0, 16 * 1024**3], "gpus": gpus}
    return {"raylet": raylet, **(figures if seen else {})}


def answers(nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    replicas = [{"state": "RUNNING"}, {"state": "STARTING"}]
    engine = {"name": "engine", "status": "UPDATING", "target_num_replicas": 2, "replicas": replicas}
    job = {
        "submission_id": "raysubmit_1",
        "status": "RUNNING",
        "entrypoint": "python -m jobs.evaluate conf/hle.yaml 'models=[a,b]'\n" + "and=so " * 20,
        "start_time": 2,
        "runtime_env": {"env_vars": {"HF_HOME": SECRET}},
        "metadata": {},
    }
    driver = {"submission_id": None, "job_id": "02000000", "status": "FAILED", "entrypoint": "", "start_time": 1}
    return {
        "/nodes?view=summary": {"result": True, "data": {"summary": nodes}},
        "/api/serve/applications/": {
            "applications": {
                "qwen": {
                    "status": "DEPLOYING",
                    "deployments": {"engine": engine},
                    "deployed_app_config": {"runtime_env": {"env_vars": {"X": SECRET}}},
                }
            }
        },
        "/api/jobs/": [driver, job],
    }


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ClusterState]]:
    """Makes the state of a two-node Slurm cluster whose dashboard answers with the given nodes."""
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    servers = []

    def make(in_ray: Sequence[dict[str, Any]], **changes: Any) -> ClusterState:
        handler = type("Answering", (Dashboard,), {"answers": answers(in_ray)})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        port = servers[-1].server_address[1]
        write_token("c", TOKEN)
        state = ClusterState(
            name="c",
            phase="ready",
            scheduler="slurm",
            job_id="7",
            nodes=[{"name": f"n{number}", "ip": f"10.0.0.{number}", "cpus": 64, "gpus": 2} for number in (1, 2)],
            ray_address="10.0.0.1:20000",
            dashboard_url=f"http://127.0.0.1:{port}",
            ports={"dashboard": port, "serve": 20009},
            run_root="/runs",
            started_at="2026-01-01T00:00:00+00:00",
            site="osk",
            expected_nodes=2,
        )
        return dataclasses.replace(state, **changes)

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts commands on PATH that speak like Slurm's; the argument is what `scontrol show job` does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(show_job: str) -> None:
        hosts = 'case "$2" in hostnames) echo n1; echo n2; exit;; esac'
        scripts = {"scontrol": f"{hosts}\n{show_job}", "sinfo": "echo 'n1 alloc'; echo 'n2 down*'"}
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)

    make("echo JobId=7 JobState=RUNNING Reason=None NodeList=n[1-2] TimeLimit=04:00:00 RunTime=01:30:00 ExitCode=0:0")
    return make


def both_texts(status: Status) -> str:
    return render(status) + as_json(status)


def test_a_whole_cluster_is_shown_from_both_sides(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None]
) -> None:
    # n2's raylet died and came back: Ray lists both, the dead one last
    status = gather(cluster([ray_node(1), ray_node(2, start=5), ray_node(2, "DEAD", start=1)]))
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


def test_nothing_of_a_runtime_environment_is_shown(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None]
) -> None:
    text = both_texts(gather(cluster([ray_node(1), ray_node(2)])))
    assert "raysubmit_1" in text
    assert SECRET not in text and TOKEN not in text


@pytest.mark.parametrize("nodes", [[ray_node(1)], [ray_node(1), ray_node(2, "DEAD")]])
def test_a_lost_node_is_said_loudly_and_the_rest_goes_on(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None], nodes: list[dict[str, Any]]
) -> None:
    status = gather(cluster(nodes))
    assert (status.verdict, exit_code(status)) == ("degraded", 0)
    assert status.nodes[1].gpu_use is None and status.nodes[1].cpu_percent is None
    text = render(status)
    assert "DEGRADED: 1 of 2 nodes, without n2" in text
    assert "--heal" in text


def test_a_replacement_that_a_helper_job_brought_counts(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None]
) -> None:
    job = "JobState=RUNNING Reason=None TimeLimit=UNLIMITED RunTime=00:01:00 ExitCode=0:0"
    slurm(f"echo JobId=$4 NodeList=n[1-2] {job}")
    lost = [{"name": "n9", "ip": "10.0.0.9", "cpus": 64, "gpus": 2}]
    head = [{"name": "n1", "ip": "10.0.0.1", "cpus": 64, "gpus": 2}]
    state = cluster([ray_node(1), ray_node(2)], nodes=head + lost)
    add_helper("c", "8")
    status = gather(state)
    assert [(node.name, node.ray) for node in status.nodes] == [("n1", "alive"), ("n9", "missing"), ("n2", "alive")]
    assert status.verdict == "ready"
    assert status.batch_jobs and [one.id for one in status.batch_jobs] == ["7", "8"]


HELPER = """
case $4 in 8) echo JobId=8 JobState={state} Reason=Resources NodeList={nodes};; *) echo JobId=7 JobState=RUNNING;; esac
"""


@pytest.mark.parametrize(("state", "nodes"), [("PENDING", ""), ("RUNNING", "n3")])
def test_a_replacement_that_waits_or_boots_is_not_asked_for_twice(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None], state: str, nodes: str
) -> None:
    slurm(HELPER.format(state=state, nodes=nodes))
    write_state(cluster([ray_node(1)]))
    add_helper("c", "8")
    said: list[str] = []
    heal.heal("c", said.append)
    assert said == ["a replacement is on its way already: job 8"]


def test_a_cluster_is_not_healed_before_its_nodes_are_there(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state file may say `ready` for some seconds after a node is lost."""
    slurm(HELPER.format(state="RUNNING", nodes="n3"))
    monkeypatch.setattr(heal, "POLL", 0.05)
    nodes = [ray_node(1)]
    write_state(cluster(nodes))
    add_helper("c", "8")
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        nodes.append(ray_node(3))

    assert heal.wait_healed("c", say).phase == "ready"
    assert said == ["waiting for the nodes; replacement running (Resources)"]


def test_a_state_file_of_an_older_version_is_read(cluster: Callable[..., ClusterState]) -> None:
    state = cluster([])
    write_state(state)
    file = cluster_dir("c") / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"helpers": ["8"]}))
    assert read_state("c") == state


def test_torn_events_do_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path))
    path = cluster_dir("c") / "events.jsonl"
    path.parent.mkdir(parents=True)
    events = EventLog(path, "7")
    events.write("one")
    with path.open("a") as file:
        file.write('{"job": "7", "ev\n')
    events.write("two")
    assert [event["event"] for event in read_events("c")] == ["one", "two"]


SILENT_ONCE = """
if [ -e {mark} ]; then echo JobId=7 JobState={then} Reason=None NodeList=n1
else touch {mark}; echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1; fi
"""


def test_a_controller_that_is_away_for_a_while_ends_no_wait(
    cluster: Callable[..., ClusterState],
    slurm: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(batch_system, "QUEUE_POLL", 0.1)
    mark = tmp_path / "asked"
    slurm(SILENT_ONCE.format(mark=mark, then="PENDING"))
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if mark.exists() and "does not answer" not in line:
            write_state(cluster([]))

    assert BatchSystem(SLURM).wait_ready("c", "7", say).phase == "ready"
    assert said == ["queued: Slurm does not answer", "queued"]

    mark.unlink()
    slurm(SILENT_ONCE.format(mark=mark, then="COMPLETED"))
    log = cluster_dir("c") / "logs" / "7.log"
    log.parent.mkdir()
    log.write_text("what it printed\n")
    EventLog(cluster_dir("c") / "events.jsonl", "7").write("ended", code=3)
    assert BatchSystem(SLURM).follow("c", "7", said.append) == 3
    assert capfd.readouterr().out == "what it printed\n"


def test_a_controller_that_never_answers_ends_the_wait(slurm: Callable[[str], None]) -> None:
    slurm("echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1")
    observer = base.Observer(SLURM, patience=0.3)
    seen = observer.look("7")
    assert seen and seen.state == base.UNKNOWN and not seen.ended
    with pytest.raises(base.Silent, match="scontrol ping"):
        observer.ask("7", pause=lambda _: time.sleep(0.1))


def test_what_was_not_reported_is_not_measured(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None]
) -> None:
    status = gather(cluster([ray_node(1), ray_node(2, seen=False)]))
    node = status.nodes[1]
    assert (node.ray, node.cpu_percent, node.memory_used_mib, node.gpu_use) == ("alive", None, None, None)
    assert "not measured" in next(line for line in render(status).splitlines() if line.startswith("n2 "))


def test_a_cluster_that_hangs_is_given_up_in_time(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None]
) -> None:
    slurm("exec sleep 8")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        state = cluster([], dashboard_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        status = gather(state)
        assert time.monotonic() - start < 5
    assert (status.verdict, exit_code(status)) == ("not answering", 4)
    assert (status.jobs, status.applications, status.batch_jobs) == (None, None, None)
    assert all(node.ray is None and node.scheduler is None for node in status.nodes)
    text = render(status)
    assert "does NOT ANSWER" in text and "scontrol ping" in text and "make cluster-down NAME=c" in text


def test_a_wrong_token_is_no_answer(cluster: Callable[..., ClusterState], slurm: Callable[[str], None]) -> None:
    state = cluster([ray_node(1), ray_node(2)])
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
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None], show_job: str
) -> None:
    slurm(show_job)
    status = gather(cluster([], dashboard_url="http://127.0.0.1:9"))
    assert (status.verdict, exit_code(status)) == ("gone", 4)
    text = render(status)
    assert "the state file says ready" in text
    assert "make cluster-down NAME=c" in text and "make cluster-up SITE=osk NAME=c NODES=2" in text


def test_a_queued_cluster_shows_the_reason_and_asks_no_dashboard(
    cluster: Callable[..., ClusterState], slurm: Callable[[str], None]
) -> None:
    slurm("echo JobId=7 JobState=PENDING Reason=Resources 'NodeList=(null)' ExitCode=0:0")
    status = gather(cluster([], phase="queued", nodes=[], dashboard_url="", ray_address=""))
    assert (status.verdict, exit_code(status)) == ("queued", 4)
    assert "PENDING (Resources)" in render(status)


def test_a_failed_cluster_says_why(cluster: Callable[..., ClusterState], slurm: Callable[[str], None]) -> None:
    slurm("echo JobId=7 JobState=FAILED Reason=NonZeroExitCode NodeList=n[1-2] ExitCode=4:0")
    status = gather(cluster([], phase="failed", problem="n2: GPU 3 has fallen off", dashboard_url=""))
    assert (status.verdict, exit_code(status)) == ("failed", 4)
    assert "GPU 3 has fallen off" in render(status)


def ssh_line(state: ClusterState, login_host: str | None) -> str:
    return next(line.strip() for line in tunnel_lines(state, login_host) if line.strip().startswith("ssh "))


def parsed_by_ssh(line: str) -> dict[str, list[str]]:
    """What the real ssh understands by a command line, without connecting."""
    options = dict[str, list[str]]()
    words = line.split()
    done = subprocess.run([words[0], "-G", "-F", "/dev/null", *words[1:]], capture_output=True, text=True, check=True)
    for option in done.stdout.splitlines():
        key, _, value = option.partition(" ")
        options.setdefault(key, []).append(value)
    return options


@pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh")
@pytest.mark.parametrize(
    ("changes", "login_host", "expected"),
    [
        (
            {"dashboard_url": "http://10.0.0.1:20001"},
            "me@login.example",
            ("me", "login.example", None, ["8265 [10.0.0.1]:20001", "8000 [10.0.0.1]:20009"]),
        ),
        (
            {"dashboard_url": "http://[fd00::1]:20001", "ray_address": "[fd00::1]:20000"},
            "me@login.example",
            ("me", "login.example", None, ["8265 [fd00::1]:20001", "8000 [fd00::1]:20009"]),
        ),
        (
            {"dashboard_url": "http://127.0.0.1:20001"},
            "me@login.example",
            ("you", "n1", "me@login.example", ["8265 [127.0.0.1]:20001", "8000 [10.0.0.1]:20009"]),
        ),
        (
            {"dashboard_url": "http://127.0.0.1:20001", "scheduler": "local", "host": "desk.example"},
            None,
            ("you", "desk.example", None, ["8265 [127.0.0.1]:20001", "8000 [127.0.0.1]:20009"]),
        ),
    ],
)
def test_ssh_understands_the_tunnel(
    cluster: Callable[..., ClusterState],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    login_host: str | None,
    expected: tuple[str, str, str | None, list[str]],
) -> None:
    monkeypatch.setenv("LOGNAME", "you")
    state = cluster([], ports={"dashboard": 20001, "serve": 20009}, **changes)
    options = parsed_by_ssh(ssh_line(state, login_host))
    jump = options.get("proxyjump", [None])[0]
    assert (options["user"][0], options["hostname"][0], jump, options["localforward"]) == expected
    assert options["exitonforwardfailure"] == ["yes"]


def test_the_tunnel_tells_where_the_token_lies_and_not_what_it_is(cluster: Callable[..., ClusterState]) -> None:
    text = "\n".join(tunnel_lines(cluster([]), "login.example"))
    assert str(token_path("c")) in text and TOKEN not in text
    assert "RAY_ADDRESS=http://localhost:8265" in text and "RAY_AUTH_MODE=token" in text


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
    deadline = time.monotonic() + 30
    while True:
        status = gather(state)
        figures = scrape(f"127.0.0.1:{state.ports['metrics_export']}") or {}
        if (status.nodes[0].cpu_percent is not None and "" in figures) or time.monotonic() > deadline:
            return status, figures
        time.sleep(0.3)
