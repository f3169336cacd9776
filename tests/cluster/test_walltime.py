"""The end of a batch job and its successor: which resumes, with what, and which does not.

Slurm looks at limits every 30 s or so and may send --signal up to 60 s early. Two minutes of walltime, the least that
leaves time to come up, and a grace of 45 s made these tests take 83 and 89 s.
"""

from typing import Any

import pytest

from tests.support.namespaces import wait_until
from tests.support.slurm_harness import UP_SECONDS, Kosen, kill_titled, lost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
HEAD = "node1"
SHORT = ("time=2:00", "grace=45", "resubmit=1")
# Counts, notes how far it is, and needs 10 s to stop; ends only where it resumes from what another life noted.
JOB = """
import os, signal, sys, time
from pathlib import Path
home, stopped = Path(sys.argv[1]), []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
checkpoint, draft = home / "checkpoint", home / "draft"
begun = int(checkpoint.read_text()) if checkpoint.exists() else 0
with (home / "lives").open("a") as lives:
    lives.write(f"{begun} {os.getcwd()}\\n")
for count in range(begun, 1000):
    time.sleep(0.2)
    draft.write_text(str(count + 1))
    draft.rename(checkpoint)
    if stopped:
        time.sleep(10)
        (home / "saved").write_text(str(count + 1))
        sys.exit(130)
    if begun and count > begun + 5:
        (home / "result").write_text(f"from {begun}")
        sys.exit(0)
"""


def submit_job(kosen: Kosen) -> None:
    """As a user does who knows only Ray, from where `cluster up` was called; returns when the job runs."""
    (kosen.home / "job.py").write_text(JOB)  # for its second life: the package goes with the first head
    lines = kosen.cluster("env").stdout.splitlines()
    variables = dict(line.removeprefix("export ").split("=", 1) for line in lines)
    # not the home itself, in which files come and go while Ray packs it
    package = kosen.home / "package"
    package.mkdir()
    (package / "job.py").write_text(JOB)
    command = ["job", "submit", "--no-wait", "--submission-id=mine", "--working-dir=package"]
    entrypoint = ["--", "python", "job.py", str(kosen.home)]
    done = kosen.run("ray.scripts.scripts", *command, *entrypoint, timeout=90, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until((kosen.home / "checkpoint").exists, 60, f"the job did not start: {done.stdout}\n{kosen.logs()}")
    ledger = kosen.home / "clusters" / "c" / "ledger.jsonl"  # asks Ray every 3 s
    wait_until(lambda: '"RUNNING"' in ledger.read_text(), 20, "the ledger does not know the job")


def lives(kosen: Kosen) -> list[str]:
    return (kosen.home / "lives").read_text().splitlines()


def events_of(kosen: Kosen, event: str) -> list[dict[str, Any]]:
    return [line for line in kosen.events() if line["event"] == event]


def await_event(kosen: Kosen, event: str, count: int, seconds: float) -> list[dict[str, Any]]:
    wait_until(lambda: len(events_of(kosen, event)) >= count, seconds, f"no {event}: {kosen.events()}\n{kosen.logs()}")
    return events_of(kosen, event)


def job_status(kosen: Kosen) -> list[str]:
    return [job["status"] for job in kosen.status()["jobs"] or [] if job["id"] == "mine"]


def assert_taken_up(kosen: Kosen, first: str) -> None:
    """The successor of batch job `first` is up, has no successor itself, and the job ended there under its old id."""
    _, ready = await_event(kosen, "ready", 2, UP_SECONDS)
    assert ready["resumed"] == ["mine"]
    assert ready["job"] != first
    assert [line.split()[0] for line in kosen.jobs()] == [ready["job"]]  # one was all that was allowed
    wait_until((kosen.home / "result").exists, 60, f"the job did not end\n{kosen.logs()}")
    begun, folder = lives(kosen)[1].split()
    assert int(begun) > 0
    assert folder == str(kosen.home)  # nobody named another
    assert (kosen.home / "result").read_text() == f"from {begun}"
    wait_until(lambda: job_status(kosen) == ["SUCCEEDED"], 20, f"the job is {job_status(kosen)}")


@pytest.mark.parametrize("number", ["USR2", "TERM"])
def test_a_successor_takes_up_what_the_walltime_interrupted(kosen: Kosen, number: str) -> None:
    nodes = 2 if number == "USR2" else 1
    state = kosen.up("c", nodes, *SHORT, f"sbatch=[--signal=B:{number}@45]")
    token = (kosen.home / "clusters" / "c" / "token").read_text()
    submit_job(kosen)
    [ended] = await_event(kosen, "ended", 1, 120)
    assert (ended["why"], ended["code"]) == ("walltime", 130)
    assert (kosen.home / "saved").exists()  # the 10 s that it needed were its own
    assert_taken_up(kosen, state["job_id"])
    assert (kosen.home / "clusters" / "c" / "token").read_text() != token
    assert kosen.cluster("down").returncode == 0
    kosen.assert_nothing_left()
    assert kosen.state() is None


def test_a_successor_does_not_go_on_after_scancel(kosen: Kosen) -> None:
    state = kosen.up("c", 1, "resubmit=1")
    assert len(kosen.jobs()) == 2
    kosen.slurm_command("scancel", state["job_id"])
    kosen.assert_nothing_left()
    assert kosen.state() is None
    assert len(events_of(kosen, "batch_started")) == 1


def test_a_successor_does_not_go_on_after_exit_code_3(kosen: Kosen) -> None:
    arguments = kosen.submit_arguments(1, "resubmit=1")
    done = kosen.cluster("run", "--name", "c", *arguments, "--", "bash", "-c", "exit 3")
    assert done.returncode == 3
    kosen.assert_nothing_left()
    assert len(events_of(kosen, "batch_started")) == 1


def test_a_successor_does_not_go_on_after_a_kill_and_up_starts_anew(kosen: Kosen) -> None:
    """Here Slurm does start it: it ends by itself, and leaves what it finds as it is."""
    kosen.up("c", 1, "resubmit=1")
    before = kosen.state()
    kill_titled(kosen.slurm, HEAD, "-m cluster.head.batch")
    kosen.assert_nothing_left(30)  # the successor's start and end included
    [declined] = events_of(kosen, "not_continued")
    assert declined["state"] == "FAILED"
    assert len(events_of(kosen, "batch_started")) == 1
    assert kosen.state() == before
    again = kosen.up("c", 1)
    assert before
    assert again["job_id"] != before["job_id"]


def test_the_loss_of_the_heads_node_is_the_successors_start(kosen: Kosen) -> None:
    """Slurm lets a job with --no-kill run on without its batch script; the node that is left ends it."""
    state = kosen.up("c", 2, "resubmit=1")
    submit_job(kosen)
    with lost(kosen.slurm, HEAD):
        assert_taken_up(kosen, state["job_id"])
        after = kosen.state()
        assert after
        assert HEAD not in [node["name"] for node in after["nodes"]]
        assert after["phase"] == "ready"
        assert kosen.cluster("down").returncode == 0
    kosen.assert_nothing_left()


def test_down_ends_a_successor_that_waits(kosen: Kosen) -> None:
    """It waits for a node that is not coming back; the state file still tells of the job that was lost with it."""
    state = kosen.up("c", 1, "resubmit=1", f"nodelist={HEAD}")
    with lost(kosen.slurm, HEAD):
        wait_until(lambda: len(kosen.jobs()) == 1 and "PENDING" in kosen.jobs()[0], 60, f"{kosen.jobs()}")
        assert kosen.jobs()[0].split()[0] != state["job_id"]
        again = kosen.cluster("run", "--name", "c", *kosen.submit_arguments(1), "--", "true")
        assert again.returncode == 2
        assert "there is a cluster 'c' already" in again.stderr
        assert kosen.cluster("down").returncode == 0
        assert kosen.jobs() == []
    kosen.assert_nothing_left()
    assert kosen.state() is None
