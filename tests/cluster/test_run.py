"""`cluster run`: one batch job that brings a cluster up, runs a command on it, and goes away with its exit code."""

import csv
import json
import re
import signal
import sys
from pathlib import Path

import pytest

from cluster.files import REPOSITORY
from tests.support.harness import numbered, write_exam
from tests.support.mini_slurm import MiniSlurm
from tests.support.namespaces import wait_until
from tests.support.scripted_server import ScriptedServer
from tests.support.slurm_harness import UP_SECONDS, Finished, Kosen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PYTHON = sys.executable
# What a command can do with the environment that it gets. The figures come every few seconds, for a few rounds of them.
LOOK = """
import ray, subprocess, sys, time
ray.init(log_to_driver=False)
print("nodes", len([node for node in ray.nodes() if node["Alive"]]))
listed = subprocess.run([sys.executable, "-m", "orchestrator.submit", "list"], capture_output=True, text=True)
print("list", listed.returncode, listed.stdout, listed.stderr)
time.sleep(8)
"""


def run(kosen: Kosen, *command: str, nodes: int = 1) -> Finished:
    return kosen.cluster("run", "--name", "c", *kosen.submit_arguments(nodes), "--", *command)


def rows(kosen: Kosen, file: str) -> list[dict[str, str]]:
    [path] = (kosen.home / "clusters" / "c" / "logs").glob(f"*/{file}")
    with path.open(newline="") as lines:
        reader = csv.DictReader(lines)
        assert reader.fieldnames
        return list(reader)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["bash", "-c", "echo done"], 0, ""),
        (["bash", "-c", "exit 3"], 3, ""),
        ([PYTHON, "-c", "import os; os.kill(os.getpid(), 9)"], 137, ""),
        (["no-such-command", "x"], 127, "cannot run 'no-such-command': No such file or directory"),
    ],
)
def test_its_exit_code_is_the_commands(kosen: Kosen, command: list[str], code: int, said: str) -> None:
    done = run(kosen, *command)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout
    assert "Traceback" not in done.stdout
    kosen.assert_nothing_left()
    assert kosen.state() is None


def test_two_nodes_serve_the_command_and_are_measured(kosen: Kosen) -> None:
    done = run(kosen, PYTHON, "-c", LOOK + "sys.exit(7)", nodes=2)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "nodes 2" in done.stdout
    assert "list 0 id " in done.stdout
    assert {row["node"] for row in rows(kosen, "node_metrics.csv")} == {"node1", "node2"}
    assert all(float(row["memory_used_mib"]) > 0 for row in rows(kosen, "node_metrics.csv"))
    assert rows(kosen, "gpu_metrics.csv") == []  # the fake GPUs have no driver to ask, and no figure is made up
    kosen.assert_nothing_left()


def test_output_is_streamed_and_the_follower_may_leave(kosen: Kosen) -> None:
    """The command prints without flushing, waits for a file, and keeps running without its follower."""
    wait = f"import os, time\nprint('begun')\nwhile not os.path.exists('{kosen.home}/go'): time.sleep(0.1)\n"
    arguments = ["run", "--name", "c", *kosen.submit_arguments(1), "--", PYTHON, "-c", wait + "print('ended')"]
    follower = kosen.start("cluster", *arguments)
    told = follower.stdout
    assert told
    wait_until(lambda: told.readline() == "begun\n", UP_SECONDS, "no output of the command")
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=20)
    assert follower.returncode == 130
    assert "the job keeps running" in said
    [job] = kosen.jobs()
    assert "RUNNING" in job
    (kosen.home / "go").touch()
    wait_until(lambda: not kosen.jobs(), 30, f"still there: {kosen.jobs()}")
    assert (kosen.home / "clusters" / "c" / "logs" / f"{job.split()[0]}.log").read_text().endswith("ended\n")
    kosen.assert_nothing_left()


def test_what_the_command_leaves_behind_goes_too(kosen: Kosen) -> None:
    """--no-wait prints the id; a process that the command started in the background does not outlive the batch job."""
    command = ["bash", "-c", "trap '' TERM; sleep 300 & echo $! > child; exit 0"]
    done = kosen.cluster("run", "--name", "c", "--no-wait", *kosen.submit_arguments(1), "--", *command)
    assert done.returncode == 0
    assert re.fullmatch(r"\d+\n", done.stdout)
    wait_until((kosen.home / "child").exists, UP_SECONDS, "the command did not run")
    kosen.assert_nothing_left(30)  # of which the end of a command may take 15


def test_an_exam_on_two_nodes(kosen: Kosen, slurm: MiniSlurm, tmp_path: Path) -> None:
    exam = write_exam(kosen.home / "exam.jsonl", numbered(40))
    with ScriptedServer(host=f"{slurm.net}.254") as server:
        settings = [f"dataset={exam}", "model=scripted", f"base_url={server.base_url}", "provider=compatible"]
        spec = ["--config", str(REPOSITORY / "conf/hle.yaml"), "run=first", *settings]
        done = run(kosen, PYTHON, "-m", "jobs.evaluate", *spec, nodes=2)
        assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((kosen.home / "runs" / "first" / "metrics.json").read_text())
    assert metrics["n_answered"] == 40, metrics
    kosen.assert_nothing_left()
