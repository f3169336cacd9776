"""What would break a job, found before it starts: the checks of one node, of all nodes together, and of the links.

Every finding says what was seen and what to do. The measuring is done by cluster.probes; here are the thresholds.
"""

import dataclasses
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import psutil

from cluster.files import publish, read_published
from cluster.machine import ports as port_plan
from cluster.machine.network import Link
from cluster.machine.resources import gpu_device_files
from cluster.machine.temp_dirs import RAY
from cluster.preflight.findings import Finding, Severity, render, worst
from cluster.probes.clock import Offset, ahead_of_host
from cluster.probes.gpus import Gpu, Gpus, of_others, read_gpus
from cluster.probes.limits import Limits, read_limits
from cluster.probes.sockets import PATH_MOST, socket_path_bytes
from cluster.probes.storage import Space, canary, space
from cluster.profile import Site

__all__ = [
    "Finding",
    "NodeReport",
    "check_node",
    "compare_nodes",
    "render",
    "report",
    "worst",
    "write_canary",
]

GIB = 1024**3
# A Ray worker holds some 100 files and sockets and a busy endpoint one for each request in flight; Ray itself warns
# below 4096 and asks for 65536.
OPEN_FILES_WANTED, OPEN_FILES_LEAST = 65536, 4096
TEMP_WANTED = 5 * GIB  # bytes; unpacked runtime environments, a session's logs and objects that Ray spills
TEMP_LEAST = GIB // 2
TEMP_FULL = 0.95  # share of the file system; from there on Ray refuses to spill objects
SHM_WANTED = (
    GIB // 2
)  # bytes; Ray's store, and 30 MiB or so for each pair of NCCL ranks, PyTorch loaders and vLLM's queue
SHM_LEAST = 65 * 1024**2  # a container's default is 64 MiB: NCCL dies of it with a bus error
CANARY = "canary.json"  # what the batch host writes into the job's folder
CANARY_SECONDS = 5.0  # an NFS client may not see a new file at once
CLOCK_WANTED, CLOCK_MOST = 1.0, 30.0  # seconds; logs get out of order, and beyond that tokens and timeouts go wrong
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
INFINIBAND = Path("/sys/class/infiniband")


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node reports of itself, for `compare_nodes`."""

    node: str
    versions: dict[str, str]  # "versions": Python and Ray; "gpus": their names and driver, where it has some
    findings: list[Finding] = field(default_factory=list)


def check_node(
    *,
    site: Site,
    host: str,
    link: Link,
    ports: Mapping[str, int] | None,
    job_dir: Path,
    gpus: int,
    peers: Sequence[str],
    job_id: str = "",
    environment: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """All findings of this node, `host`, under 0.3 s where its GPUs and the shared file system answer at once.

    `ports` is the block that was bound for it, None where none could be. `gpus` are expected; `peers` are the other
    nodes' names and addresses. Call it after raise_soft_limits, and after the batch host's `write_canary(job_dir)`.
    """
    limits = read_limits()
    gpus_seen = read_gpus(environment.get("CUDA_VISIBLE_DEVICES")) if gpus else None
    temp_dir = Path(site.temp_dir)
    skew, canary_problem = _look_at_canary(job_dir)
    found = [
        check_open_files(limits),
        check_locked_memory(limits, matters=bool(gpus_seen) or _has_infiniband()),
        check_address_space(limits),
        check_temp_dir(temp_dir, space(temp_dir)),
        check_socket_paths(temp_dir / _ray_folder(job_id)),
        check_shared_memory(space(Path("/dev/shm"))),
        check_shared_folder(job_dir, canary_problem),
        *([check_clock(skew)] if skew else []),
        *(check_gpus(gpus, gpus_seen, len(gpu_device_files())) if gpus else []),
        check_ports(ports, site.ports),
        *check_open_ports(ports or {}),
        check_interface(link, alone=not peers),
        check_proxy(environment, [link.ip, *peers]),
        check_versions(),
    ]
    return [dataclasses.replace(finding, node=host) for finding in found]


def write_canary(job_dir: Path) -> None:
    """What the batch host leaves for the nodes to find: that the folder is shared, and what its clock says."""
    publish(job_dir / CANARY, {"host": platform.node(), "time": time.time()})


def report(node: str, findings: list[Finding]) -> NodeReport:
    """This node's report: its findings, and the versions among them."""
    versions = {finding.check: finding.seen for finding in findings if finding.check in ("versions", "gpus")}
    return NodeReport(node, versions, findings)


def compare_nodes(reports: Sequence[NodeReport]) -> list[Finding]:
    """What is not the same on all nodes: Python and Ray must be (error), GPUs and their driver should be (warning)."""
    found = _differences(reports, "versions", "error", "Use one environment on a shared file system: `venv` or `conda`")
    found += _differences(reports, "gpus", "warning", "Ask the administrators whether these nodes are meant to differ")
    return found or [Finding("ok", "same on all nodes", "all nodes", "versions and GPUs")]


def check_open_files(limits: Limits) -> Finding:
    soft = limits.open_files
    seen = f"at most {'unlimited' if soft is None else soft} open files"
    advice = (
        f"Ray needs {OPEN_FILES_WANTED}: raise `ulimit -n`, or ask for a higher hard limit in the scheduler's service"
    )
    if soft is None or soft >= OPEN_FILES_WANTED:
        return _ok("open files", seen)
    return Finding("warning" if soft >= OPEN_FILES_LEAST else "error", "open files", "", seen, advice)


def check_locked_memory(limits: Limits, *, matters: bool) -> Finding:
    soft = limits.locked_memory
    if soft is None or not matters:
        return _ok("locked memory", "unlimited" if soft is None else f"{soft >> 10} KiB, which suffices without GPUs")
    advice = "NCCL and InfiniBand lock memory: ask for `ulimit -l unlimited` (LimitMEMLOCK=infinity of the scheduler)"
    return Finding("warning", "locked memory", "", f"at most {soft >> 10} KiB", advice)


def check_address_space(limits: Limits) -> Finding:
    soft = limits.address_space
    if soft is None:
        return _ok("address space", "unlimited")
    advice = "Ray and model loaders map more than they use: `ulimit -v unlimited` before you submit, or in ~/.profile"
    return Finding("error", "address space", "", f"limited to {soft / GIB:.1f} GiB (`ulimit -v`)", advice)


def check_temp_dir(path: Path, found: Space | None) -> Finding:
    advice = "Set `temp_dir` in the site profile to a short local path with free space, or clean it"
    if found is None:
        return Finding("error", "temp dir", "", f"there is no folder {path}", advice)
    if not os.access(path, os.W_OK | os.X_OK):
        return Finding("error", "temp dir", "", f"{path} cannot be written", advice)
    seen = f"{found.free / GIB:.1f} of {found.total / GIB:.1f} GiB free in {path}"
    if found.free < TEMP_LEAST:
        return Finding("error", "temp dir", "", seen, advice)
    if found.free < TEMP_WANTED or found.free < (1 - TEMP_FULL) * found.total:
        return Finding("warning", "temp dir", "", seen, f"From {TEMP_FULL:.0%} on Ray spills no objects. {advice}")
    return _ok("temp dir", seen)


def check_socket_paths(folder: Path) -> Finding:
    longest = socket_path_bytes(folder)
    seen = f"socket paths under {folder.parent} have {longest} bytes; at most {PATH_MOST} are possible"
    advice = "Set `temp_dir` in the site profile to a shorter path, for example /tmp"
    return Finding("error", "socket paths", "", seen, advice) if longest > PATH_MOST else _ok("socket paths", seen)


def check_shared_memory(found: Space | None) -> Finding:
    advice = "Enlarge /dev/shm (`mount -o remount,size=…`; a container: --shm-size), or clean what dead jobs left in it"
    if found is None:
        return Finding("error", "shared memory", "", "there is no /dev/shm", advice)
    seen = f"{found.free / GIB:.2f} of {found.total / GIB:.2f} GiB free in /dev/shm"
    if found.free >= SHM_WANTED:
        return _ok("shared memory", seen)
    return Finding("warning" if found.free >= SHM_LEAST else "error", "shared memory", "", seen, advice)


def check_shared_folder(job_dir: Path, problem: str | None) -> Finding:
    own = canary(job_dir)
    problem = own.problem or problem
    if problem:
        advice = (
            "~/.kosen must lie on a file system that all nodes share and may write: set KOSEN_HOME to such a folder"
        )
        return Finding("error", "shared folder", "", f"{job_dir}: {problem}", advice)
    return _ok("shared folder", f"{job_dir} reads back what was written ({own.write_seconds or 0:.3f} s)")


def check_clock(skew: Offset) -> Finding:
    where = "ahead of" if skew.seconds > 0 else "behind"
    seen = f"{abs(skew.seconds):.1f} s {where} the batch host's clock"
    certain = abs(skew.seconds) - skew.uncertainty
    if certain <= CLOCK_WANTED:
        return _ok("clock", seen)
    advice = "Ask the administrators to check chrony or ntpd there, or leave the node out with --exclude"
    return Finding("error" if certain > CLOCK_MOST else "warning", "clock", "", seen, advice)


def check_gpus(expected: int, found: Gpus | None, device_files: int) -> list[Finding]:
    """The driver, the number of GPUs, and the health of each."""
    if found is None:
        severity: Severity = "warning" if device_files >= expected else "error"
        seen = f"no NVIDIA driver, {device_files} device files, {expected} GPUs expected"
        return [Finding(severity, "gpus", "", seen, "Fine on a test cluster; elsewhere try `nvidia-smi` there")]
    if found.problem:
        advice = "The driver hangs or is broken: leave the node out with --exclude, and tell the administrators"
        return [Finding("error", "gpus", "", found.problem, advice)]
    names = ", ".join(f"{count} x {name}" for name, count in Counter(gpu.name for gpu in found.found).items())
    seen = f"{names or 'no GPUs'}, driver {found.found[0].driver or 'unknown' if found.found else 'present'}"
    sick = [finding for gpu in found.found for finding in _health(gpu)]
    sick += [_lost(complaint) for complaint in found.complaints]
    if len(found.found) < expected:
        advice = "A GPU has fallen off its bus (`dmesg | grep Xid`), or the request and `gpus_per_node` differ"
        return [Finding("error", "gpus", "", f"{seen}; expected {expected}", advice), *sick]
    return [_ok("gpus", seen), *sick]


def check_ports(ports: Mapping[str, int] | None, range_text: str) -> Finding:
    if not ports:
        advice = "Give another `ports=first-last` in the site profile, or see who listens there: `ss -ltnp`"
        return Finding("error", "ports", "", f"no free block of ports in {range_text}", advice)
    seen = f"{min(ports.values())}-{max(ports.values())} are free and reserved"
    floor = port_plan.ephemeral_floor()
    if max(ports.values()) >= floor:
        advice = f"The kernel assigns ports from {floor} up to outgoing connections: choose `ports` below that"
        return Finding("warning", "ports", "", seen, advice)
    return _ok("ports", seen)


def check_open_ports(ports: Mapping[str, int]) -> list[Finding]:
    """The ports that Ray binds on every interface, and opens without a token. It has no option for that, and
    the node is not at fault, so it is only named: a firewall can close them."""
    there = [ports[service] for service in port_plan.OPEN if service in ports]
    if not there:
        return []
    numbers = ", ".join(map(str, there))
    return [_ok(f"metrics on ports {numbers} of every interface, without a token", "CPU, GPU and model figures")]


def check_interface(link: Link, *, alone: bool) -> Finding:
    interface = psutil.net_if_stats().get(link.interface)
    advice = "Set `interface` in the site profile to the one that reaches the other nodes (`ip -br address`)"
    if interface is None or not interface.isup:
        state = "is down" if interface else "does not exist"
        return Finding("error", "interface", "", f"{link.interface} {state}", advice)
    if not alone and (link.ip.startswith("127.") or link.ip == "::1"):
        return Finding("error", "interface", "", f"{link.ip} is loopback: no other node can reach it", advice)
    speed = f"{interface.speed} Mbit/s" if interface.speed > 0 else "speed unknown"
    return _ok("interface", f"{link.ip} on {link.interface}, {speed}, MTU {interface.mtu}")


def check_proxy(environment: Mapping[str, str], hosts: Sequence[str]) -> Finding:
    values = {name.lower(): value for name, value in environment.items() if value}
    proxies = [name for name in PROXIES if name in values]
    direct = [part.strip().lstrip(".") for part in values.get("no_proxy", "").split(",")]
    missed = [host for host in hosts if not any(part in ("*", host) or host.endswith(f".{part}") for part in direct)]
    if not proxies or not missed:
        return _ok("proxy", f"{', '.join(proxies)} set, not for the nodes" if proxies else "none")
    seen = f"{', '.join(proxies)} set, and no_proxy lacks {', '.join(missed[:4])}{' …' if len(missed) > 4 else ''}"
    advice = "Ray, Serve and vLLM would use the proxy between nodes: add the nodes to no_proxy, or unset the proxy"
    return Finding("warning", "proxy", "", seen, advice)


def check_versions() -> Finding:
    ray = _version("ray")
    seen = f"Python {platform.python_version()}, Ray {ray or 'not found'}"
    advice = "Run `make install`, or name the environment that has Ray as `venv` or `conda` in the site profile"
    return _ok("versions", seen) if ray else Finding("error", "versions", "", seen, advice)


def _ok(check: str, seen: str) -> Finding:
    return Finding("ok", check, "", seen)


def _differences(reports: Sequence[NodeReport], what: str, severity: Severity, advice: str) -> list[Finding]:
    """The nodes that do not have what most nodes have."""
    seen = {report.node: report.versions[what] for report in reports if what in report.versions}
    usual = Counter(seen.values()).most_common(1)
    return [
        Finding(severity, what, node, f"{value}; elsewhere {usual[0][0]}", advice)
        for node, value in seen.items()
        if value != usual[0][0]
    ]


def _look_at_canary(job_dir: Path) -> tuple[Offset | None, str | None]:
    """The batch host's clock as its file says, and what is wrong with the file."""
    path, deadline = job_dir / CANARY, time.monotonic() + CANARY_SECONDS
    while (values := read_published(path)) is None:
        if time.monotonic() > deadline:
            return None, f"the batch host's {CANARY} did not appear within {CANARY_SECONDS:.0f} s"
        time.sleep(0.05)
    return ahead_of_host(path, float(values["time"]), job_dir), None


def _health(gpu: Gpu) -> list[Finding]:
    """What is wrong with one GPU; nothing of what its driver does not report."""
    name, found = f"GPU {gpu.index} ({gpu.uuid})", []
    if gpu.error:
        advice = "It no longer responds: have it reset or the node drained, and leave the node out with --exclude"
        found.append(Finding("error", "gpu error", "", f"{name} reports {gpu.error}", advice))
    if gpu.ecc_errors:
        advice = "Its memory is failing: have the GPU reset or the node drained"
        found.append(
            Finding("warning", "gpu memory", "", f"{name} has {gpu.ecc_errors} uncorrected ECC errors", advice)
        )
    if gpu.slowed_by:
        advice = (
            "It runs below its clocks and every other GPU waits for it: leave the node out, tell the administrators"
        )
        found.append(Finding("warning", "gpu clocks", "", f"{name} is slowed: {', '.join(gpu.slowed_by)}", advice))
    if others := of_others(gpu):
        pids = ", ".join(str(process.pid) for process in others)
        advice = "Another user's job works on it: ask for `exclusive: true`, or for another node"
        found.append(Finding("warning", "gpu use", "", f"{name} is used by processes {pids} of other users", advice))
    return found


def _lost(complaint: str) -> Finding:
    """What nvidia-smi says of a GPU in a line that is not a row, for example its warning about a damaged infoROM."""
    severity: Severity = "warning" if complaint.lower().startswith("warning") else "error"
    advice = "Check `dmesg | grep -E 'Xid|NVRM'` there, leave the node out with --exclude, tell the administrators"
    return Finding(severity, "gpu error", "", f"nvidia-smi says: {complaint}", advice)


def _ray_folder(job_id: str) -> str:
    """As long as the name of the folder that Ray gets under the temporary one (cluster.machine.temp_dirs)."""
    return f"kosen-{os.getuid()}-{job_id}-{'x' * 8}/{RAY}"


def _has_infiniband() -> bool:
    return INFINIBAND.is_dir() and any(INFINIBAND.iterdir())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
