"""The checks before a job: each against its fault, the comparison of nodes, and who is blamed for a bad link."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest

from cluster.files import REPOSITORY
from cluster.machine.network import Link
from cluster.machine.ports import OPEN, plan_ports
from cluster.preflight import checks
from cluster.preflight.checks import (
    Finding,
    NodeReport,
    check_clock,
    check_gpus,
    check_interface,
    check_locked_memory,
    check_node,
    check_open_ports,
    check_ports,
    check_proxy,
    check_shared_memory,
    check_temp_dir,
    compare_nodes,
    render,
    report,
    worst,
    write_canary,
)
from cluster.preflight.slow_links import judge_pairs
from cluster.probes.clock import Offset
from cluster.probes.gpus import Gpu, Gpus, Process
from cluster.probes.limits import Limits
from cluster.probes.pairwise import PairResult
from cluster.probes.storage import Space
from cluster.profile import Site
from tests.support.netns import missing

GIB = 1024**3
LOOPBACK = Link("127.0.0.1", "lo")
PORTS = {"gcs": 20000, "worker_max": 20311}
WHY_NOT = missing()
needs_root = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
CHECK = """
import dataclasses, json, sys
from pathlib import Path
from cluster.machine.network import Link
from cluster.preflight.checks import check_node
from cluster.profile import Site
found = check_node(site=Site(temp_dir=sys.argv[2]), host="node7", link=Link("127.0.0.1", "lo"), ports={"gcs": 20000},
                   job_dir=Path(sys.argv[1]), gpus=0, peers=[])
assert not {"torch", "ray"} & set(sys.modules), "too heavy for a check of a third of a second"
print(json.dumps([dataclasses.asdict(finding) for finding in found]))
"""


def check_in_child(
    job_dir: Path, *before: str, temp_dir: Path = Path("/tmp"), wrap: tuple[str, ...] = ()
) -> dict[str, Finding]:
    """The findings of a process that starts after the shell commands `before`, by check."""
    shell = " && ".join([*before, 'exec "$@"'])
    command = [*wrap, "sh", "-c", shell, "sh", sys.executable, "-c", CHECK, str(job_dir), str(temp_dir)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = [Finding(**values) for values in json.loads(done.stdout)]
    assert {finding.node for finding in found} == {"node7"}
    assert all(finding.advice for finding in found if finding.severity != "ok")
    return {finding.check: finding for finding in found}


@pytest.fixture
def job_dir(tmp_path: Path) -> Path:
    write_canary(tmp_path)
    return tmp_path


def test_a_node_is_checked_quickly(job_dir: Path) -> None:
    site, seconds = Site(), []
    for _ in range(3):  # the machine may be busy with something else
        started = time.perf_counter()
        found = check_node(site=site, host="n1", link=LOOPBACK, ports=PORTS, job_dir=job_dir, gpus=0, peers=[])
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3
    assert worst(f for f in found if f.check not in ("open files", "temp dir", "shared memory")) == "ok", render(found)
    assert json.loads(json.dumps([dataclasses.asdict(finding) for finding in found]))


def test_limits_of_a_login_shell_are_found(job_dir: Path) -> None:
    found = check_in_child(job_dir, "ulimit -Sn 2000", "ulimit -Sv 60000000")
    assert (found["open files"].severity, found["address space"].severity) == ("error", "error")
    assert "2000 open files" in found["open files"].seen
    assert "57.2 GiB" in found["address space"].seen
    assert "ulimit -v unlimited" in found["address space"].advice


def test_few_open_files_are_a_warning_and_locked_memory_counts_with_gpus(job_dir: Path) -> None:
    assert check_in_child(job_dir, "ulimit -Sn 5000")["open files"].severity == "warning"
    limits = Limits(open_files=None, locked_memory=8 << 20, address_space=None)
    assert check_locked_memory(limits, matters=False).severity == "ok"
    finding = check_locked_memory(limits, matters=True)
    assert (finding.severity, finding.seen) == ("warning", "at most 8192 KiB")


@needs_root
def test_small_file_systems_are_found(job_dir: Path) -> None:
    small = job_dir / "small"
    small.mkdir()
    mounts = [f"mount -t tmpfs -o size=64m none {small}", "mount -t tmpfs -o size=64m none /dev/shm"]
    found = check_in_child(job_dir, *mounts, temp_dir=small, wrap=("unshare", "--mount"))
    assert (found["temp dir"].severity, found["shared memory"].severity) == ("error", "error")
    assert "0.1 of 0.1 GiB free" in found["temp dir"].seen
    assert "0.06 of 0.06 GiB free in /dev/shm" in found["shared memory"].seen


@pytest.mark.parametrize(
    ("space", "severity"),
    [
        (Space(100 * GIB, 50 * GIB), "ok"),
        (Space(100 * GIB, 3 * GIB), "warning"),
        (Space(1000 * GIB, 40 * GIB), "warning"),
    ],
)
def test_a_temp_dir_must_have_room_and_not_be_almost_full(space: Space, severity: str) -> None:
    assert check_temp_dir(Path("/tmp"), space).severity == severity


def test_a_missing_temp_dir_and_a_long_one(job_dir: Path) -> None:
    found = check_in_child(job_dir, temp_dir=job_dir / ("x" * 60))
    assert (found["temp dir"].severity, found["socket paths"].severity) == ("error", "error")
    assert "there is no folder" in found["temp dir"].seen
    assert check_shared_memory(None).severity == "error"
    assert check_shared_memory(Space(GIB, GIB // 4)).severity == "warning"


def test_a_folder_that_the_batch_host_does_not_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CANARY_SECONDS", 0.2)
    arguments = {"site": Site(), "host": "n", "link": LOOPBACK, "ports": PORTS, "gpus": 0, "peers": []}
    found = {finding.check: finding for finding in check_node(job_dir=tmp_path, **arguments)}  # type: ignore[arg-type]
    assert found["shared folder"].severity == "error" and "canary.json did not appear" in found["shared folder"].seen
    assert "clock" not in found  # not measured, so nothing is said of it
    found = {finding.check: finding for finding in check_node(job_dir=tmp_path / "none", **arguments)}  # type: ignore[arg-type]
    assert "No such file" in found["shared folder"].seen


@pytest.mark.parametrize(("ahead", "severity"), [(0.0, "ok"), (-5.0, "warning"), (5.0, "warning"), (-60.0, "error")])
def test_a_wrong_clock_is_found(tmp_path: Path, ahead: float, severity: str) -> None:
    (tmp_path / "canary.json").write_text(json.dumps({"host": "batch", "time": time.time() - ahead}))
    found = check_node(site=Site(), host="n", link=LOOPBACK, ports=PORTS, job_dir=tmp_path, gpus=0, peers=[])
    (clock,) = [finding for finding in found if finding.check == "clock"]
    assert clock.severity == severity
    assert f"{abs(ahead):.1f} s" in clock.seen


def test_a_slow_file_system_does_not_look_like_a_wrong_clock() -> None:
    assert check_clock(Offset(3.0, uncertainty=2.5)).severity == "ok"


GPU = Gpu(0, "NVIDIA H200", "GPU-a", "580.1", 143771, 0, 0, [])


def test_fake_gpus_are_a_warning_and_lost_ones_an_error() -> None:
    (fake,) = check_gpus(8, None, device_files=8)
    assert fake.severity == "warning" and "no NVIDIA driver" in fake.seen
    assert check_gpus(8, None, device_files=0)[0].severity == "error"
    (lost,) = check_gpus(2, Gpus([GPU]), device_files=2)
    assert lost.severity == "error" and lost.seen == "1 x NVIDIA H200, driver 580.1; expected 2"
    assert check_gpus(1, Gpus([], "nvidia-smi did not answer within 1.5 s"), 1)[0].severity == "error"
    assert [finding.severity for finding in check_gpus(1, Gpus([GPU]), 1)] == ["ok"]


def test_a_sick_gpu_is_named() -> None:
    stranger = Process(4711, os.getuid() + 1, GIB)
    sick = dataclasses.replace(GPU, ecc_errors=3, slowed_by=["too hot (hardware)"], processes=[stranger])
    _, *found = check_gpus(1, Gpus([sick]), 1)
    assert [finding.check for finding in found] == ["gpu memory", "gpu clocks", "gpu use"]
    assert worst(found) == "warning"
    untold = dataclasses.replace(GPU, ecc_errors=None, slowed_by=None)
    assert [finding.severity for finding in check_gpus(1, Gpus([untold]), 1)] == ["ok"]


def test_ports() -> None:
    assert check_ports(PORTS, "20000-32767").severity == "ok"
    assert check_ports({"gcs": 60000}, "60000-60999").severity == "warning"
    assert check_ports(None, "20000-20100").severity == "error"


def test_ports_that_are_open_without_a_token_are_named() -> None:
    ports = plan_ports("someone:local")
    found = check_open_ports(ports)
    assert all(str(ports[service]) in render(found) for service in OPEN) and worst(found) == "ok"
    assert check_open_ports(PORTS) == []


@needs_root
def test_an_interface_that_is_down_is_found(job_dir: Path) -> None:
    found = check_in_child(job_dir, wrap=("unshare", "--net"))  # a new namespace's loopback is down
    assert (found["interface"].severity, found["interface"].seen) == ("error", "lo is down")


def test_an_interface_must_exist_and_be_reachable_for_others() -> None:
    assert check_interface(LOOPBACK, alone=True).severity == "ok"
    assert "is loopback" in check_interface(LOOPBACK, alone=False).seen
    assert check_interface(Link("10.0.0.1", "none0"), alone=False).seen == "none0 does not exist"


@pytest.mark.parametrize(
    ("no_proxy", "severity"),
    [
        ("", "warning"),
        ("node1", "warning"),
        ("node1,10.0.0.1,node2.corp", "ok"),
        ("10.0.0.1,node1,.corp", "ok"),
        ("*", "ok"),
    ],
)
def test_a_proxy_that_the_nodes_would_ask_for_each_other(no_proxy: str, severity: str) -> None:
    hosts = ["10.0.0.1", "node1", "node2.corp"]
    finding = check_proxy({"https_proxy": "http://proxy:3128", "NO_PROXY": no_proxy}, hosts)
    assert finding.severity == severity
    assert check_proxy({"no_proxy": no_proxy}, hosts).seen == "none"


def ok(check: str, seen: str) -> Finding:
    return Finding("ok", check, "", seen)


def test_nodes_must_have_the_same_versions() -> None:
    same = [report(f"n{i}", [ok("versions", "Python 3.11.7, Ray 2.60.0"), ok("gpus", "8 x H200")]) for i in range(3)]
    assert worst(compare_nodes(same)) == "ok"
    odd = report("n9", [ok("versions", "Python 3.11.2, Ray 2.60.0"), ok("gpus", "8 x H100")])
    versions, gpus = compare_nodes([*same, odd])
    assert (versions.severity, versions.node, gpus.severity, gpus.node) == ("error", "n9", "warning", "n9")
    assert versions.seen == "Python 3.11.2, Ray 2.60.0; elsewhere Python 3.11.7, Ray 2.60.0"
    assert compare_nodes([NodeReport("n1", {})])[0].severity == "ok"


def test_findings_are_shown_worst_first_and_fine_ones_in_one_line() -> None:
    bad = Finding("warning", "clock", "n2", "5.0 s ahead", "Look at chrony")
    worse = Finding("error", "gpus", "n1", "no GPUs", "Try srun nvidia-smi")
    lines = render([ok("ports", "x"), bad, ok("proxy", "y"), worse]).splitlines()
    assert [line.split()[0] for line in lines] == ["error", "Try", "warning", "Look", "ok"]
    assert lines[-1] == "ok       ports, proxy"
    assert worst([]) == "ok" and worst([bad, worse]) == "error"


def met(
    *hosts: str, rate: float | None = 2e8, problem: str | None = None, correct: bool = True, latency: float = 3e-4
) -> list[PairResult]:
    """What both sides write after a measurement."""
    bandwidth = {} if rate is None or problem else {2**23: rate}
    return [
        PairResult(1, list(hosts), host, "gloo", 0.3, None if problem else correct, latency, bandwidth, problem)
        for host in hosts
    ]


def tournament(hosts: str, bad: dict[str, object], *broken: str) -> list[PairResult]:
    """All pairs of `hosts`; those with one of `broken` go as `bad` says."""
    pairs = combinations(hosts, 2)
    return [r for a, b in pairs for r in met(a, b, **(bad if {a, b} & set(broken) else {}))]  # type: ignore[arg-type]


@pytest.mark.parametrize("hosts", ["abc", "abcd"])
@pytest.mark.parametrize(
    ("bad", "severity"),
    [
        ({"problem": "timed out"}, "error"),
        ({"correct": False}, "error"),
        ({"rate": 1e7}, "warning"),
        ({"latency": 0.1}, "warning"),
    ],
)
def test_the_node_common_to_the_bad_pairs_is_named(hosts: str, bad: dict[str, object], severity: str) -> None:
    (finding,) = judge_pairs(tournament(hosts, bad, "b"), list(hosts), "sbatch=[--exclude={}]")
    assert (finding.severity, finding.node) == (severity, "b")
    assert "--exclude=b" in finding.advice


def test_two_broken_nodes_of_five_are_both_named() -> None:
    found = judge_pairs(tournament("abcde", {"problem": "timed out"}, "b", "d"), list("abcde"))
    assert [finding.node for finding in found] == ["b", "d"]


def test_one_bad_pair_of_three_is_a_link_not_a_node() -> None:
    results = met("a", "b", problem="timed out") + met("a", "c") + met("b", "c")
    (finding,) = judge_pairs(results, list("abc"))
    assert finding.node == "a and b" and "is not known" in finding.advice


def test_when_all_pairs_are_bad_nobody_is_blamed() -> None:
    found = judge_pairs(tournament("abc", {"problem": "timed out"}, "a", "b", "c"), list("abc"))
    assert {finding.node for finding in found} == {"a and b", "a and c", "b and c"}


def test_of_two_nodes_only_a_measurement_alone_can_tell() -> None:
    slow = met("a", "b", rate=1e7)
    (finding,) = judge_pairs(met("a") + met("b") + slow, ["a", "b"])
    assert finding.node == "a and b" and "is not known with two nodes" in finding.advice
    (finding,) = judge_pairs(met("a") + met("b", rate=1e7) + slow, ["a", "b"])
    assert finding.node == "b"
    alone = [dataclasses.replace(result, blame="b") for result in met("b", problem="CUDA error")]
    (finding,) = judge_pairs(met("a") + alone + met("a", "b", problem="timed out"), ["a", "b"])
    assert finding.node == "b" and finding.seen == "CUDA error"


def test_a_node_without_a_word_is_named() -> None:
    results = [result for result in met("a", "b", problem="timed out") if result.seen_by == "a"]
    (finding,) = judge_pairs(results, ["a", "b"])
    assert (finding.severity, finding.node) == ("error", "b")
    assert [finding.node for finding in judge_pairs([], ["a", "b"])] == ["a", "b"]


def test_good_links_are_one_line_with_their_figures() -> None:
    (finding,) = judge_pairs(tournament("abcd", {}), list("abcd"))
    assert finding.severity == "ok" and finding.seen.startswith(
        "6 measured, the slowest a-b with gloo bus bandwidth 0.2 GB/s"
    )
    (finding,) = judge_pairs(met("a", rate=None), ["a"])
    assert "bus bandwidth not measured" in finding.seen
