"""sbatch and its like as sites wrap them, with fakes on PATH: no job is lost, none is invented, none is called down
while it runs."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.commands import batch_system
from cluster.commands.batch_system import BatchSystem
from cluster.errors import ClusterError, ProfileError
from cluster.schedulers import base, slurm_commands
from cluster.schedulers.base import scheduler_of
from cluster.state import ClusterState, cluster_dir, read_state, write_state

Commands = Callable[..., Path]
up = BatchSystem(scheduler_of("slurm"))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Puts shell scripts on PATH by their names; each call of one is a line of the file that is returned."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("KOSEN_HOME", str(tmp_path / "home"))
    for name, seconds in (("PAUSE", 0.05), ("SHORT_PAUSE", 0.05), ("SHORT_PATIENCE", 1.0)):
        monkeypatch.setattr(base, name, seconds)
    for name, seconds in (("POLL", 0.05), ("QUEUE_POLL", 0.05)):
        monkeypatch.setattr(batch_system, name, seconds)

    def make(**scripts: str) -> Path:
        calls.touch()
        for name, script in scripts.items():
            (folder / name).write_text(f'#!/bin/bash\necho {name} "$@" >> {calls}\n{script}\n')
            (folder / name).chmod(0o755)
        return calls

    for name in ("scontrol", "squeue", "scancel", "sinfo", "sbatch"):  # of a machine that has Slurm
        make(**{name: f"echo '{name}: not expected' >&2; exit 1"})
    return make


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "batch.sh"
    path.write_text("#!/bin/bash\n#SBATCH --nodes=1\ntrue\n")
    return path


def test_a_wrapped_sbatch_is_understood(commands: Commands, script: Path) -> None:
    calls = commands(sbatch=r"printf 'Welcome \xe9\n\n2 messages\n'; printf '\033[32m4711\033[0m\n'; echo bye 7 >&2")
    assert slurm_commands.submit(script) == "4711"
    assert calls.read_text().count("\n") == 1  # nobody else had to be asked


# squeue that knows the last submission, by the comment that sbatch was given
QUEUE = r"""
mark=$(grep -o 'comment=[^ ]*' {calls} | tail -1); mark=${{mark#comment=}}
echo 'Welcome 2026'; echo "4710|RUNNING|(null)|{script}"; echo "4711|PENDING|$mark|{script}"; echo "5|RUNNING|x|/y/z"
"""


@pytest.mark.parametrize(
    "sbatch",
    [
        "echo 2026; echo 4711",
        "echo 2026; echo 4711 >&2; echo 12",
        "true",
        "echo thank you",
        "echo Quota 500 GB",
        "echo 4711; echo 'post-submission hook failed' >&2; exit 3",
    ],
)
def test_a_job_that_sbatch_does_not_name_is_found_in_the_queue(
    commands: Commands, script: Path, tmp_path: Path, sbatch: str
) -> None:
    commands(sbatch=sbatch, squeue=QUEUE.format(calls=tmp_path / "calls", script=script))
    assert slurm_commands.submit(script) == "4711"


def test_a_job_with_a_comment_of_its_own_is_found_by_its_script(commands: Commands, script: Path) -> None:
    script.write_text("#!/bin/bash\n#SBATCH --comment=project-x\ntrue\n")
    queue = f"echo '4709|COMPLETED|project-x|{script}'; echo '4711|PENDING|project-x|{script}'; echo '5|RUNNING|x|/y'"
    calls = commands(sbatch="true", squeue=queue)
    assert slurm_commands.submit(script) == "4711"
    assert "--comment" not in calls.read_text()


@pytest.mark.parametrize("queue", ["true", "echo 'Unable to contact slurm controller' >&2; exit 1"])
def test_a_job_that_nobody_can_name_is_an_error_in_sbatchs_words(commands: Commands, script: Path, queue: str) -> None:
    commands(sbatch="echo Your quota is 500 GB; echo see you >&2", squeue=queue)
    with pytest.raises(ClusterError, match="Your quota is 500 GB") as raised:
        slurm_commands.submit(script)
    assert "see you" in str(raised.value) and "squeue" in str(raised.value)
    assert raised.value.exit_code == 4


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_refusal_is_in_sbatchs_words(commands: Commands, script: Path, stream: str) -> None:
    calls = commands(sbatch=f"echo 'sbatch: error: invalid partition specified: P99' >&{stream}; exit 1", squeue="true")
    with pytest.raises(ProfileError, match="invalid partition specified: P99"):
        slurm_commands.submit(script)
    assert sum(line.startswith("sbatch") for line in calls.read_text().splitlines()) == 1


AWAY = [
    "Unable to contact slurm controller (connect failure)",
    "Socket timed out on send/recv operation",
    "Zero Bytes were transmitted or received",
    "Slurm backup controller in standby mode",
    "Could not establish a configuration source",
]


@pytest.mark.parametrize("said", AWAY)
def test_a_controller_that_comes_back_takes_the_job(
    commands: Commands, script: Path, tmp_path: Path, said: str
) -> None:
    once = f"[ -e {tmp_path}/tried ] && echo 4711 && exit; touch {tmp_path}/tried; echo '{said}' >&2; exit 1"
    calls = commands(sbatch=once, squeue="true")
    assert slurm_commands.submit(script) == "4711"
    marks = [line.split("--comment=")[1].split()[0] for line in calls.read_text().splitlines() if "--comment" in line]
    assert len(marks) == 2 and marks[0] == marks[1]


def test_a_job_whose_answer_was_lost_is_not_submitted_twice(commands: Commands, script: Path, tmp_path: Path) -> None:
    queue = QUEUE.format(calls=tmp_path / "calls", script=script)
    away = f"[ -e {tmp_path}/asked ] || {{ touch {tmp_path}/asked; echo 'Connection refused' >&2; exit 1; }}\n"
    calls = commands(sbatch="echo 'Socket timed out on send/recv operation' >&2; exit 1", squeue=away + queue)
    assert slurm_commands.submit(script) == "4711"
    assert sum(line.startswith("sbatch") for line in calls.read_text().splitlines()) == 1


@pytest.mark.parametrize("said", AWAY)
def test_a_controller_that_stays_away_is_not_the_profiles_fault(commands: Commands, script: Path, said: str) -> None:
    commands(sbatch=f"echo '{said}' >&2; exit 1", squeue=f"echo '{said}' >&2; exit 1")
    started = time.monotonic()
    with pytest.raises(base.Silent, match="scontrol ping") as raised:
        slurm_commands.submit(script)
    assert raised.value.exit_code == 4
    assert time.monotonic() - started < 5


def test_a_host_list_waits_for_the_configuration(commands: Commands, tmp_path: Path) -> None:
    """Of a login node that has no configuration file: scontrol asks the controller for it."""
    once = f"if [ -e {tmp_path}/tried ]; then echo Hello; echo n1; echo n2; exit; fi; touch {tmp_path}/tried"
    commands(scontrol=f"{once}; echo 'scontrol: fatal: Could not establish a configuration source' >&2; exit 1")
    assert slurm_commands.hostnames("n[1-2]") == ["n1", "n2"]
    (tmp_path / "tried").unlink()
    commands(scontrol="echo 'scontrol: fatal: Could not establish a configuration source' >&2; exit 1")
    with pytest.raises(base.Silent):
        slurm_commands.hostnames("n[1-2]")


@pytest.mark.parametrize(
    ("shown", "state"),
    [
        ("echo Welcome; echo JobId=7 JobState=RUNNING NodeList=n1; echo bye", "RUNNING"),
        ("echo JobId=7 JobState=PENDING Reason=Priority; exit 1", "PENDING"),  # a wrapper's exit code
        ("echo Welcome; echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", None),
        ("echo slurm_load_jobs error: Invalid job id specified", None),
    ],
)
def test_a_job_is_seen_through_a_wrapper(commands: Commands, shown: str, state: str | None) -> None:
    commands(scontrol=shown)
    seen = slurm_commands.job("7")
    assert (seen.state if seen else None) == state


@pytest.mark.parametrize("shown", ["echo Welcome", "true", "echo JobId=7", "echo JobId=8 JobState=RUNNING", "exit 3"])
def test_an_answer_without_the_job_is_none(commands: Commands, shown: str) -> None:
    commands(scontrol=shown)
    with pytest.raises(base.Silent):
        slurm_commands.job("7")


# waiting for a job, and taking it down


def cluster(job_id: str = "7", phase: str = "ready") -> None:
    state = ClusterState("c", phase, "slurm", job_id, [], "n1:1", "http://n1:2", {}, "/r", "t")  # type: ignore[arg-type]
    write_state(state)


def job_in(state: str, reason: str = "None") -> str:
    return f"echo 'JobId=7 JobName=kosen-c UserId=a(1) JobState={state} Reason={reason} NodeList='"


@pytest.mark.parametrize(
    "reason", ["AssocMaxWallDurationPerJobLimit", "QOSMaxGRESPerJob", "MaxTRESPerJob", "InvalidQOS", "PartitionConfig"]
)
def test_what_never_starts_is_cancelled_and_said_at_once(commands: Commands, reason: str) -> None:
    calls = commands(scontrol=job_in("PENDING", reason), scancel="true")
    cluster(phase="queued")
    with pytest.raises(ProfileError, match=rf"never start this \({reason}\), and job 7 was cancelled"):
        up.wait_ready("c", "7", lambda _: None)
    assert "scancel 7" in calls.read_text()
    assert read_state("c") is None


def test_what_never_starts_and_cannot_be_cancelled_is_not_forgotten(commands: Commands) -> None:
    commands(scontrol=job_in("PENDING", "InvalidQOS"), scancel="echo Connection refused >&2; exit 1")
    cluster(phase="queued")
    with pytest.raises(base.Silent):
        up.wait_ready("c", "7", lambda _: None)
    assert read_state("c") is not None


@pytest.mark.parametrize(
    ("state", "reason"),
    [("PENDING", "JobHeldUser"), ("PENDING", "JobHeldAdmin"), ("PENDING", "launch_failed_requeued_held")]
    + [(state, "None") for state in ("REQUEUE_HOLD", "SPECIAL_EXIT", "RECONFIG_FAIL", "LAUNCH_FAILED")],
)
def test_a_held_job_ends_the_wait_and_stays(commands: Commands, state: str, reason: str) -> None:
    calls = commands(scontrol=job_in(state, reason))
    cluster(phase="queued")
    for wait in (up.wait_ready, up.follow):
        with pytest.raises(ClusterError, match=f"job 7 is held.*{reason}.*scontrol release 7"):
            wait("c", "7", lambda _: None)
    assert "scancel" not in calls.read_text()
    assert read_state("c") is not None


@pytest.mark.parametrize("state", ["REVOKED", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", "PREEMPTED", "OUT_OF_MEMORY"])
def test_a_job_that_ended_ends_the_wait(commands: Commands, state: str) -> None:
    commands(scontrol=job_in(state))
    cluster(phase="queued")
    with pytest.raises(ClusterError, match=f"job 7 ended as {state}"):
        up.wait_ready("c", "7", lambda _: None)


@pytest.mark.parametrize(
    "state", ["COMPLETING", "STAGE_OUT", "STOPPED", "SUSPENDED", "POWERING_UP_NODE", "EXPEDITING", "SOMETHING_NEW"]
)
def test_every_other_wait_has_an_end(commands: Commands, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    commands(scontrol=job_in(state))
    cluster(phase="queued")
    monkeypatch.setattr(batch_system, "QUEUE_TIMEOUT", 0.5)
    said: list[str] = []
    with pytest.raises(ClusterError, match=f"job 7 is {state}"):
        up.wait_ready("c", "7", said.append)
    assert said == [f"{state.lower().replace('_', ' ')}: None"]


def test_down_sees_the_end_of_the_job(commands: Commands, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    calls = commands(
        scontrol=f"if [ -e {gone} ]; then {job_in('CANCELLED')}; else {job_in('PENDING')}; fi", scancel=f"touch {gone}"
    )
    cluster()
    assert up.down("c") == "cluster 'c' is down (job 7)"
    assert "scancel 7" in calls.read_text()
    assert read_state("c") is None


BANNER_ID = "Welcome to the cluster\n4711"


@pytest.mark.parametrize("job_id", ["7", BANNER_ID])
def test_down_finds_the_job_that_the_state_does_not_know(commands: Commands, tmp_path: Path, job_id: str) -> None:
    """A banner in the place of the id, as an older version kept it; or an id that is not the job's."""
    cluster(job_id)
    gone, folder = tmp_path / "gone", cluster_dir("c")
    queue = (
        f"[ -e {gone} ] || echo '4711|RUNNING|(null)|{folder}/batch.sh'; echo '12|RUNNING|(null)|{folder}x/batch.sh'"
    )
    shown = f"""case $4 in
    4711) [ -e {gone} ] && echo JobId=4711 JobState=CANCELLED || echo JobId=4711 JobState=PENDING;;
    *) echo Invalid job id specified >&2; exit 1;; esac"""
    calls = commands(scontrol=shown, squeue=queue, scancel=f"[ $1 = 4711 ] && touch {gone}")
    said = up.down("c")
    assert "is down" not in said and "4711" in said
    assert [line for line in calls.read_text().splitlines() if line.startswith("scancel")] == ["scancel 4711"]
    assert read_state("c") is None


def test_down_does_not_call_down_what_it_did_not_see_end(commands: Commands) -> None:
    unknown = "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1"
    commands(scontrol=unknown, squeue="true")
    cluster("7")
    assert up.down("c") == (
        "cluster 'c' is gone: Slurm does not know job 7 (any more), and has none of its scripts in the queue"
    )
    cluster(BANNER_ID)
    with pytest.raises(ClusterError, match=r"not a job's id.*squeue --me"):
        up.down("c")
    assert read_state("c") is not None
    cluster("7")
    commands(squeue="echo Connection refused >&2; exit 1")
    with pytest.raises(base.Silent):
        up.down("c")
    assert read_state("c") is not None


def test_down_waits_for_a_controller_and_forgets_nothing(commands: Commands, tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    once = f"[ -e {tried} ] && {job_in('COMPLETED')} && exit; touch {tried}"
    commands(scontrol=f"{once}; echo 'Zero Bytes were transmitted or received' >&2; exit 1")
    cluster()
    assert up.down("c") == "cluster 'c' is down (job 7)"
    cluster()
    commands(scontrol="echo 'Socket timed out on send/recv operation' >&2; exit 1")
    with pytest.raises(base.Silent):
        up.down("c")
    assert json.loads((cluster_dir("c") / "state.json").read_text())["job_id"] == "7"
