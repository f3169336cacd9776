"""What Slurm's commands print under wrappers, banners and colours, and what its words mean for who waits."""

import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.fuzz_slurm import SEEDS, check, variant
from cluster.errors import ClusterError
from cluster.schedulers import base, slurm_commands, slurm_states, slurm_text

BANNER = "*** Welcome to the cluster! Quota: 500 GB of 1000 ***\nmaintenance on 2026-12-01, 24/7 hotline 4242 or 17\n"


@pytest.mark.parametrize(
    ("out", "err", "job_id"),
    [
        ("4711\n", "", "4711"),
        ("4711;foo\n", "", "4711"),
        ("4711;\n", "", "4711"),
        ("  4711\r\n", "", "4711"),
        (BANNER + "4711\n", "", "4711"),
        ("4711\n" + BANNER, "", "4711"),
        (BANNER + "4711;my-cluster.2\n" + BANNER, BANNER, "4711"),
        ("Submitted batch job 4711\n", "", "4711"),
        ("Submitted batch job 4711 on cluster foo\n", "", "4711"),
        (BANNER + "sbatch: Submitted batch job 4711.\n", "", "4711"),
        ("2026\nSubmitted batch job 4711\n", "", "4711"),
        ("12\n4711;foo\n", "", "4711"),
        ("", "Submitted batch job 4711\n", "4711"),
        ("Checking your quota ...\n", "4711\n", "4711"),
        ("4711\n", "17\n", "4711"),  # the warning of a wrapper
        ("\x1b[1;32m4711\x1b[0m\n", "", "4711"),
        ("\x1b]0;sbatch\x07\x1b[33mNote:\x1b[0m hello\n\x1b[32m4711\x1b[m\n", "", "4711"),
        ("\x1b[32mSubmitted batch job \x1b[1m4711\x1b[0m\n", "", "4711"),
        ("4711\n4711\n", "", "4711"),
        ("Your job 4711 has been submitted.\n", "", "4711"),
        ("Successfully queued job #4711 (partition P04)\n", "", "4711"),
        ("Job ID: 4711\n", "", "4711"),
        ("JobId=4711\n", "", "4711"),
        ("Running job 12\n", "", "12"),
        ("Submitted batch job: 4711\n", "", "4711"),
        ("Your job id is 4711, good luck\n", "", "4711"),
        ("\ufeff4711\x07\n", "", "4711"),
        ("please wait ...\r4711\r\n", "", "4711"),
        ("4294967295\n", "", "4294967295"),
        ("Job <4711> is submitted to queue <gpu>.\n", "", "4711"),
        ("Submitted job with id 4711\n", "", "4711"),
        ('{"job_id": 4711, "step_id": "batch"}\n', "", "4711"),
        ("Your job uses 16 GPUs and was accepted\nJob 4711 queued\n", "", "4711"),
        # a number of something else
        ("Your job uses 16 GPUs and was accepted\n", "", None),
        ("Accepted job for 8 GPUs\n", "", None),
        ("Submitted your job, 2 nodes for 4 h\n", "", None),
        ("job: 2 nodes, submitted\n", "", None),
        ("This job costs 120 SU. Submitted.\n", "", None),
        ("Job limit 100: accepted\n", "", None),
        ("Job time: 04:00:00, submitted\n", "", None),
        ("Job 1 of 3 queued\n", "", None),
        ("Job 50 % of your quota, accepted\n", "", None),
        ("Job 4711.0 started\n", "", None),
        # several that it could be, or none
        ("2026\n4711\n", "", None),
        ("Submitted batch job 17\nSubmitted batch job 18\n", "", None),
        (BANNER, "", None),
        ("Quota: 500 GB used\n", "", None),
        ("You may run at most 10 jobs\n", "", None),
        ("", "", None),
        ("0\n", "", None),
        ("0123\n", "", None),
        ("-5\n", "", None),
        ("12345678901234\n", "", None),
        ("４７１１\n", "", None),
        ("4711_3\n", "", None),
        ("3.14\n", "", None),
    ],
)
def test_the_job_is_found_or_not_guessed(out: str, err: str, job_id: str | None) -> None:
    assert slurm_text.submitted_id(out, err) == job_id


JOB = (
    "JobId=7 JobName=kosen-c UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=0 Nice=0 Account=(null) QOS=(null) "
    "JobState=RUNNING Reason=None Dependency=(null) RunTime=00:00:10 TimeLimit=01:00:00 Partition=P04 "
    "AllocNode:Sid=login:2190 ReqNodeList=(null) ExcNodeList=(null) NodeList=n[1-2] NumNodes=2 "
)


@pytest.mark.parametrize(
    "text",
    [
        JOB + "Command=/x/a b NodeList=n9/batch.sh WorkDir=/x/a b NodeList=n9 JobState=FAILED Comment=Reason=x Power=",
        JOB.replace("kosen-c", "a JobState=FAILED NodeList=n9 b"),
        BANNER + JOB + "\n" + BANNER,
        BANNER + "NodeList=n9 JobState=FAILED JobId=77 JobId=8\n" + JOB,
        "Hello! " + JOB,
        "JobId=71 JobState=FAILED NodeList=n9\n" + JOB + "\nJobId=8 JobState=FAILED NodeList=n9",
        JOB.replace(" ", "\x1b[0m \x1b[1m"),
        JOB.replace(" JobState", "\n   JobState").replace(" RunTime", "\n   RunTime"),  # not on one line
        JOB.replace("JobId=7 ", "JobId=7 ArrayJobId=5 ArrayTaskId=1 "),
    ],
)
def test_the_fields_are_slurms_own(text: str) -> None:
    fields = slurm_text.job_fields(text, "7")
    assert fields is not None
    assert (fields["JobState"], fields["NodeList"], fields["Reason"]) == ("RUNNING", "n[1-2]", "None")


@pytest.mark.parametrize("text", ["", BANNER, "JobId=77 JobState=RUNNING", "ArrayJobId=7 JobState=RUNNING", "JobId=7x"])
def test_a_job_that_is_not_in_the_text_has_no_fields(text: str) -> None:
    assert slurm_text.job_fields(text, "7") is None


@pytest.mark.parametrize(
    ("hostlist", "text", "hosts"),
    [
        ("n[1-2]", "n1\nn2\n", ["n1", "n2"]),
        ("n[1-2]", "Welcome\n====\nn1\nn2\nlogin1\nn\n", ["n1", "n2"]),
        ("n[1-2]", "\x1b[1mn1\x1b[0m\nn2\n", ["n1", "n2"]),
        ("rack[1-2]node[1-2]", "rack\nrack1node1\nrack1node2\nnode1\n", ["rack1node1", "rack1node2"]),
        ("a[1-2],b[3,5],c", "1\na1\na2\nb3\nb5\nc\nd\n", ["a1", "a2", "b3", "b5", "c"]),
        ("gpu[01-02].site.example", "gpu01.site.example\ngpu02.site.example\ngpu01xsite.example", 2),
        ("n[1-2]", "slurm_load error\n", []),
    ],
)
def test_a_banner_is_no_host(hostlist: str, text: str, hosts: list[str] | int) -> None:
    found = slurm_text.hosts_of(hostlist, text)
    assert found == hosts if isinstance(hosts, list) else len(found) == hosts


def test_a_banner_is_no_node() -> None:
    text = "Welcome user\nn1 idle\nn2 down*\nn3 idle~\nn4 alloc\nn1 NODE and more\nn2 Maintenance\n"
    assert slurm_text.node_states(["n1", "n2", "n3"], text) == {"n1": "idle", "n2": "down*", "n3": "idle~"}


@pytest.mark.parametrize(
    "said",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "slurm_load_jobs error: Unable to contact slurm controller (receive failure)",
        "Socket timed out on send/recv operation",
        "Zero Bytes were transmitted or received",
        "Message send failure",
        "Communication connection failure",
        "Slurm backup controller in standby mode",
        "Controller is in standby mode, try a different controller",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Resource temporarily unavailable",
        "error: slurm_receive_msg: Insane message length",
        "Rate limit exceeded, please retry momentarily",
        "connect: Connection refused",
        "Connection timed out establishing",
        "No route to host",
        "Transport endpoint is not connected",
        "Could not establish a configuration source",
        "_establish_config_source: failed to fetch config",
        'Munge encode failed: Failed to access "/run/munge/munge.socket.2": No such file or directory',
        "Protocol authentication error",
        "Unexpected message received",
        "slurmctld is shutting down",
    ],
)
def test_a_controller_that_is_away_is_known(said: str) -> None:
    assert slurm_text.is_away(said)


@pytest.mark.parametrize(
    "said",
    [
        "Batch job submission failed: Invalid partition name specified",
        "Requested node configuration is not available",
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "Invalid account or account/partition combination specified",
        "unrecognized option '--no-such-option'",
        "Requested time limit is invalid (missing or exceeds some limit)",
        "User's group not permitted to use this partition",
        "Invalid job id specified",
    ],
)
def test_a_refusal_is_no_absence(said: str) -> None:
    assert not slurm_text.is_away(said)


NEVER = """AssocMaxWallDurationPerJobLimit AssocMaxNodePerJobLimit AssocMaxCpuPerJobLimit AssocMaxCpuMinutesPerJobLimit
AssocMaxMemPerJob AssocMaxGRESPerJob AssocMaxGRESPerNode AssocMaxCpuPerNode AssocMaxMemMinutesPerJob
AssocMaxBillingPerJob AssocMaxLicensePerJob AssocMaxBBPerJob AssocMaxUnknownPerJob AssocMaxEnergyPerNode
QOSMaxWallDurationPerJobLimit QOSMaxCpuPerJobLimit QOSMaxNodePerJobLimit QOSMaxMemoryPerJob QOSMaxGRESPerJob
QOSMaxCpuPerNode QOSMaxMemoryPerNode QOSMaxNodeMinutesPerJob QOSMinCpuNotSatisfied QOSMinGRES QOSMinNode QOSMinMemory
QOSMinBilling MaxTRESPerJob MaxMemPerLimit PartitionNodeLimit PartitionTimeLimit PartitionConfig BadConstraints
InvalidQOS InvalidAccount AccountNotAllowed QOSNotAllowed ReservationDeleted ReservationInvalid
DependencyNeverSatisfied"""
PASSES = """None Resources Priority Dependency BeginTime Licenses Reservation ReqNodeNotAvail Prolog Cleaning NodeDown
PartitionDown PartitionInactive QOSMaxCpuPerUserLimit QOSMaxJobsPerUserLimit QOSMaxSubmitJobPerUserLimit
QOSMaxGRESPerUser QOSMaxMemoryPerUser QOSGrpCpuLimit QOSGrpGRES QOSGrpWallLimit QOSGrpNodeMinutes AssocGrpCpuLimit
AssocGrpGRESMinutes AssocMaxJobsLimit AssocMaxSubmitJobLimit MaxCpuPerAccount MaxJobsPerAccount MaxGRESPerAccount
QOSUsageThreshold QOSJobLimit QOSTimeLimit AssociationJobLimit AssociationTimeLimit Constraints FedJobLock
BurstBufferStageIn AccountingPolicy JobArrayTaskLimit"""


@pytest.mark.parametrize("reason", [*NEVER.split(), "PartitionNodeLimit,_and_more", "QOSMaxGRESPerJob(gres/gpu)"])
def test_what_one_job_may_not_have_never_starts(reason: str) -> None:
    assert slurm_states.job("7", "PENDING", reason).never_starts
    assert not slurm_states.job("7", "RUNNING", reason).never_starts


@pytest.mark.parametrize("reason", [*PASSES.split(), "ReqNodeNotAvail,_UnavailableNodes:n1"])
def test_what_others_have_now_passes(reason: str) -> None:
    job = slurm_states.job("7", "PENDING", reason)
    assert job.waits and not job.never_starts and not job.held


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        *[("PENDING", r) for r in ("JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "BurstBufferOperation")],
        *[("PENDING", r) for r in ("launch_failed_requeued_held", "launch failed requeued held", "job_held_by_admin")],
        *[("PENDING", r) for r in ("job_requeued_in_held_state", "user_env_retrieval_failed_requeued_held")],
        *[(s, "None") for s in ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "LAUNCH_FAILED", "RECONFIG_FAIL")],
    ],
)
def test_what_a_person_holds_is_held(state: str, reason: str) -> None:
    assert slurm_states.job("7", state, reason).held


STATES = {  # of all versions up to 25.11
    "ended": "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT REVOKED",
    "running": "RUNNING RESIZING SIGNALING",
    "ending": "COMPLETING STAGE_OUT UPDATE_DB",
    "waits": "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT LAUNCH_FAILED STOPPED "
    "RECONFIG_FAIL POWER_UP_NODE POWERING_UP_NODE EXPEDITING SUSPENDED UNKNOWN SOMETHING_NEW",
}


@pytest.mark.parametrize(("kind", "state"), [(kind, s) for kind, states in STATES.items() for s in states.split()])
def test_every_state_is_of_one_kind(kind: str, state: str) -> None:
    job = slurm_states.job("7", state, "None")
    assert [k for k in STATES if getattr(job, k)] == [kind]


def test_the_readers_take_anything() -> None:
    """The seeds of benchmarks/fuzz_slurm.py, and some thousand variants of them."""
    chance = random.Random(7)
    for seed in SEEDS:
        check(seed)
    for _ in range(5_000):
        check(variant(chance))


def test_what_asks_slurm_raises_cluster_errors_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chance = random.Random(11)

    def answer(command: list[str], *_: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, chance.choice((0, 0, 1)), variant(chance), variant(chance))

    monkeypatch.setattr(slurm_commands, "_call", answer)
    for name in ("SHORT_PATIENCE", "SHORT_PAUSE"):
        monkeypatch.setattr(base, name, 0.0)
    asked = Counter[str]()
    for _ in range(2_000):
        for ask in (
            lambda: slurm_commands.job("7"),
            lambda: slurm_commands.submit(tmp_path),
            lambda: slurm_commands.hostnames("n[1-2]"),
        ):
            try:
                asked["answered" if ask() else "unknown"] += 1
            except ClusterError as error:
                asked[type(error).__name__] += 1
        slurm_commands.node_states(["n1", "n2"])
        slurm_commands.signal_batch("7", "TERM")
    assert min(asked.values()) > 10 and set(asked) == {"answered", "unknown", "Silent", "ProfileError", "ClusterError"}


def test_no_reader_takes_long() -> None:
    """Patterns that try again and again would hang on a long line."""
    for text in ("job " * 50_000, "submitted " * 20_000, "JobName=" + "x " * 100_000, "[" * 100_000, "1" * 100_000):
        check(text)
    assert slurm_states.never_starts("Max" * 10_000) is False
