"""A user's mistakes: one clear sentence, the right exit code, and nothing submitted."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.errors import ProfileError
from cluster.files import REPOSITORY
from cluster.schedulers import slurm_commands
from tests.support.mini_slurm import MiniSlurm
from tests.support.slurm_harness import Finished, Kosen

pytestmark = pytest.mark.slow

BAD_ARGUMENTS = 2
CLUSTER = 4
SILENCE = 45.0  # seconds in which a command says that Slurm does not answer; its own commands take up to 30


def run(home: Path, *arguments: str) -> Finished:
    """`python -m cluster` on a machine without Slurm."""
    variables = {"KOSEN_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "PATH": str(home / "bin"), "HOME": str(home)}
    command = [sys.executable, "-m", "cluster", *arguments]
    return subprocess.run(command, env=variables, cwd=home, capture_output=True, text=True, timeout=60, check=False)


def assert_sentence(done: Finished, code: int, *parts: str) -> None:
    """Nothing on standard output, one message on standard error, and in it all `parts`."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1 and done.stderr.splitlines()[-1].startswith("error: "), done.stderr
    assert not [part for part in parts if part not in done.stderr], done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ("up --site slurm partiton=P04", BAD_ARGUMENTS, ["slurm.yaml", "partiton", "Did you mean partition?"]),
        ("up --site slurm time=4h", BAD_ARGUMENTS, ["time='4h'"]),
        ("up --site slurm gpus_per_node=-1", BAD_ARGUMENTS, ["gpus_per_node='-1'"]),
        ("up --site slurm env.MY_API_KEY=x", BAD_ARGUMENTS, ["MY_API_KEY", "secrets.env"]),
        ("up --site slurm time=5:00", BAD_ARGUMENTS, ["grace=300", "time=5:00"]),
        ("up --site local time=5:00", BAD_ARGUMENTS, ["time is for a site with a scheduler"]),
        ("up --site slurm P04", BAD_ARGUMENTS, ["'P04'", "key=value"]),
        ("up --site nowhere", BAD_ARGUMENTS, ["nowhere.yaml", "local, osk, slurm"]),
        ("up --site slurm --nodes 0", BAD_ARGUMENTS, ["--nodes=0", "at least one node"]),
        ("up --site slurm --nodes two", BAD_ARGUMENTS, ["--nodes", "two"]),
        ("up --site local --nodes 2", BAD_ARGUMENTS, ["--nodes=2", "alone"]),
        ("up --site slurm --name a/b", BAD_ARGUMENTS, ["'a/b'", "letters, digits"]),
        ("up --site slurm --name ../../etc", BAD_ARGUMENTS, ["'../../etc'"]),
        ("run --site slurm", BAD_ARGUMENTS, ["no command", "-- python -m jobs.evaluate"]),
        ("upp", BAD_ARGUMENTS, ["upp", "--help"]),
        ("up --site slurm --color", BAD_ARGUMENTS, ["--color", "--help"]),
        ("", BAD_ARGUMENTS, ["--help"]),
        ("up --site slurm", BAD_ARGUMENTS, ["there is no sbatch on this machine", "SITE=local"]),
        ("preflight --site slurm", BAD_ARGUMENTS, ["there is no sbatch"]),
        ("status", CLUSTER, ["there is no cluster", "make cluster-up"]),
        ("status --name x", CLUSTER, ["no cluster 'x'", "make cluster-up NAME=x"]),
        ("status --name ../..", BAD_ARGUMENTS, ["'../..'"]),
        ("tunnel --name x", CLUSTER, ["no cluster 'x'"]),
        ("env --name x", CLUSTER, ["no cluster 'x'"]),
        ("up --heal --name x", CLUSTER, ["no running cluster 'x'"]),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: str, code: int, parts: list[str]) -> None:
    assert_sentence(run(tmp_path, *arguments.split()), code, *parts)
    assert not (tmp_path / "clusters").exists() or "sbatch" in parts[0]


def test_nothing_to_take_down_is_no_mistake(tmp_path: Path) -> None:
    """`make cluster-down` twice, or in a script that cleans up."""
    done = run(tmp_path, "down", "--name", "x")
    assert (done.returncode, done.stderr) == (0, "there is no cluster 'x'\n")


def write_state(home: Path, name: str, **values: object) -> Path:
    """A state file as a cluster leaves it; the folder."""
    folder = home / "clusters" / name
    folder.mkdir(parents=True)
    job_id = None if values.get("scheduler") == "local" else "7"
    state: dict[str, object] = {"name": name, "phase": "ready", "scheduler": "slurm", "job_id": job_id, "nodes": []}
    state |= {"ray_address": "127.0.0.1:9", "dashboard_url": "http://127.0.0.1:9", "ports": {}}
    state |= {"run_root": str(home), "started_at": "2026-01-01T00:00:00+00:00", **values}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "token").write_text("x")
    return folder


def test_names_are_taken_once(tmp_path: Path) -> None:
    """A local cluster's name is not Slurm's to take, nor the other way round, and its state stays as it was."""
    for name, scheduler, site, code in (("a", "local", "slurm", BAD_ARGUMENTS), ("b", "slurm", "local", CLUSTER)):
        folder = write_state(tmp_path, name, scheduler=scheduler)
        before = (folder / "state.json").read_text(), (folder / "token").read_text()
        assert_sentence(run(tmp_path, "up", "--site", site, "--name", name), code, f"'{name}'", "another NAME=")
        assert before == ((folder / "state.json").read_text(), (folder / "token").read_text())
    assert_sentence(run(tmp_path, "status"), BAD_ARGUMENTS, "several clusters: a, b", "NAME=")


def test_a_damaged_state_is_as_good_as_none(tmp_path: Path) -> None:
    folder = write_state(tmp_path, "c")
    (folder / "state.json").write_text('{"name": "c"')
    assert_sentence(run(tmp_path, "status", "--name", "c"), CLUSTER, "no cluster 'c'")


# what Slurm itself refuses


@pytest.mark.parametrize(
    ("nodes", "override", "parts"),
    [
        (2, "partition=P99", ["invalid partition"]),
        (5, "time=6:00", ["never start", "Partition", "--nodes"]),  # there are four
        (1, "memory=1T", ["emory"]),
        (1, "cpus_per_node=64", ["never start", "PartitionConfig"]),
        (1, "nodelist=node77", ["Invalid node name"]),
        (1, "nodelist=node[1-", ["node[1-"]),
        (2, "nodelist=node1", ["nodelist=node1", "1 of the 2 nodes", "NODES=1"]),
        (1, "sbatch=[--no-such-option]", ["no-such-option"]),
        (1, "sbatch=[--qos=none,--licenses=x]", ["icense"]),
    ],
)
def test_what_slurm_cannot_give(kosen: Kosen, nodes: int, override: str, parts: list[str]) -> None:
    done = kosen.cluster("up", "--name", "c", *kosen.submit_arguments(nodes, override), timeout=60)
    assert_sentence(done, BAD_ARGUMENTS, *parts)
    assert kosen.jobs() == []
    assert kosen.state() is None
    assert_sentence(kosen.cluster("status", "--name", "c"), CLUSTER, "no cluster 'c'")


@pytest.fixture
def queued(kosen: Kosen) -> Iterator[Kosen]:
    """A cluster that Slurm will not start before tomorrow, and an `up` that waits for it."""
    arguments = kosen.submit_arguments(1, "sbatch=[--begin=now+1day]")
    waiting = kosen.start("cluster", "up", "--name", "c", *arguments)
    kosen.await_phase("queued", 30)
    yield kosen
    assert waiting.poll() is None
    os.killpg(waiting.pid, signal.SIGINT)
    _, err = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert "BeginTime" in err and "stopped waiting" in err  # Slurm's own word for why
    assert "PENDING" in "".join(kosen.jobs())  # it keeps waiting
    assert kosen.cluster("down", "--name", "c").returncode == 0
    assert kosen.jobs() == []


def test_a_queued_cluster_is_not_there_yet(queued: Kosen) -> None:
    for verb in ("tunnel", "env"):
        assert_sentence(queued.cluster(verb), CLUSTER, "queued", "make cluster-status")
    done = queued.cluster("status")
    assert "Traceback" not in done.stderr
    assert "PENDING" in done.stdout
    for module, *arguments in (["orchestrator.submit", "list"], ["jobs.evaluate", "dataset={exam}", "model=m"]):
        exam = queued.home / "exam.jsonl"
        exam.write_text(
            '{"id": "1", "question": "q", "answer": "a", "answer_type": "exactMatch", "category": "Math"}\n'
        )
        words = [argument.format(exam=exam) for argument in arguments]
        done = queued.run(module, *words, timeout=60, KOSEN_CLUSTER="c")
        assert done.returncode == CLUSTER, done.stderr
        assert "Traceback" not in done.stderr and "queued" in done.stderr
    again = queued.cluster("preflight", "--name", "c", *queued.submit_arguments(1))
    assert_sentence(again, BAD_ARGUMENTS, "already", "another NAME=")


def test_two_at_once_submit_one_job(queued: Kosen) -> None:
    arguments = queued.submit_arguments(1, "sbatch=[--begin=now+1day]")
    waiting = [queued.start("cluster", "up", "--name", "d", *arguments) for _ in range(2)]
    try:
        said = [one.stderr.readline() for one in waiting if one.stderr]
    finally:
        for one in waiting:
            os.killpg(one.pid, signal.SIGINT)
            one.communicate(timeout=20)
    job_id = (queued.state("d") or {})["job_id"]
    assert sorted("submitted" in line for line in said) == [False, True]
    assert all(job_id in line for line in said)
    assert sum(" kosen-d " in job for job in queued.jobs()) == 1
    assert queued.cluster("down", "--name", "d").returncode == 0


@pytest.mark.parametrize("address", ["refuses", "is silent"])
def test_a_controller_that_does_not_answer_costs_bounded_time(kosen: Kosen, tmp_path: Path, address: str) -> None:
    """Nobody listens on the machine's own loopback; nobody at all has the other address."""
    dead = {"refuses": "127.0.0.1", "is silent": f"{kosen.slurm.net}.250"}[address]
    conf = tmp_path / "slurm.conf"
    conf.write_text(re.sub(r"SlurmctldHost=.*", f"SlurmctldHost=gone({dead})", kosen.slurm.conf.read_text()))
    write_state(kosen.home, "e")
    for arguments in (["up", "--name", "c", *kosen.submit_arguments(1)], ["down", "--name", "e"]):
        started = time.monotonic()
        done = kosen.cluster(*arguments, SLURM_CONF=str(conf), timeout=2 * SILENCE)
        assert time.monotonic() - started < SILENCE
        assert_sentence(done, CLUSTER, "scontrol ping")
    assert (kosen.home / "clusters" / "e" / "state.json").exists()  # `down` did not forget what it could not end


# host lists


@pytest.mark.parametrize(
    ("hostlist", "hosts"),
    [
        ("osk-gpu[60,62]", ["osk-gpu60", "osk-gpu62"]),
        ("osk-gpu[60-62]", ["osk-gpu60", "osk-gpu61", "osk-gpu62"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("n[1-2,007,9]", ["n1", "n2", "n007", "n9"]),
        ("a[1-2],b[3,5],c", ["a1", "a2", "b3", "b5", "c"]),
        ("rack[1-2]node[1-2]", ["rack1node1", "rack1node2", "rack2node1", "rack2node2"]),
        ("osk-gpu60", ["osk-gpu60"]),
        ("b2,a1,b1", ["b2", "a1", "b1"]),
    ],
)
def test_host_lists_are_read_as_slurm_reads_them(
    slurm: MiniSlurm, monkeypatch: pytest.MonkeyPatch, hostlist: str, hosts: list[str]
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    assert slurm_commands.hostnames(hostlist) == hosts
    assert slurm.run("node1", ["scontrol", "show", "hostnames", hostlist]).stdout.split() == hosts


def test_a_broken_host_list_is_named(slurm: MiniSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    with pytest.raises(ProfileError, match=re.escape("'n[1-'")):
        slurm_commands.hostnames("n[1-")


# --dry-run


def test_a_dry_run_writes_what_would_be_submitted(kosen: Kosen) -> None:
    words = 'it\'s $(touch boom) `x` "y"'
    overrides = [f"env.WORDS={json.dumps(words)}", "sbatch=[--comment=tried]"]
    live = write_state(kosen.home, "e") / "request.json"
    live.write_text("a living cluster's")
    assert kosen.cluster("up", "--name", "e", "--dry-run", *kosen.submit_arguments(2)).returncode == 0
    assert live.read_text() == "a living cluster's"
    assert sorted(path.name for path in live.parent.iterdir()) == ["dry-run", "request.json", "state.json", "token"]
    done = kosen.cluster("up", "--name", "c", "--dry-run", *kosen.submit_arguments(2, *overrides))
    assert done.returncode == 0, done.stderr
    assert str(kosen.home / "clusters/c/dry-run/batch.sh") in done.stderr
    assert "nothing was submitted" in done.stderr
    assert kosen.jobs() == []
    assert kosen.state() is None
    folder = kosen.home / "clusters" / "c" / "dry-run"
    script = folder / "batch.sh"
    assert done.stdout == script.read_text()
    profile = yaml.safe_load((folder / "site.yaml").read_text())
    assert (profile["partition"], profile["cpus_per_node"], profile["exclusive"]) == (kosen.slurm.partition, 4, False)
    assert subprocess.run(["bash", "-n", str(script)], timeout=10, check=False).returncode == 0
    tested = kosen.slurm_command("sbatch", "--test-only", str(script))
    assert "to start at" in tested, tested
    setup = script.read_text().rpartition("exec ")[0] + 'printf %s "$WORDS"'
    ran = subprocess.run(["bash", "-c", setup], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    assert ran.stdout == words
    assert not (folder / "boom").exists()


def test_a_dry_run_needs_no_slurm(tmp_path: Path) -> None:
    done = run(tmp_path, "up", "--site", "osk", "--nodes", "2", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodes=2" in done.stdout
    assert "slurm" not in run(tmp_path, "up", "--site", "local", "--dry-run").stderr


def test_a_run_that_can_never_start_says_so(kosen: Kosen) -> None:
    done = kosen.cluster("run", "--name", "c", *kosen.submit_arguments(64), "--", "true", timeout=60)
    assert done.returncode == 2
    assert "Slurm will never start this" in done.stderr
    assert kosen.jobs() == []
