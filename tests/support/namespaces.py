"""Starting processes inside another process's namespaces, and recognizing them from outside."""

import ctypes
import os
import pwd
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLONE_NEWPID = 0x20000000
LIBC = ctypes.CDLL(None, use_errno=True)


class Process(NamedTuple):
    """A process inside a node; `pid` is the machine's number, for os.kill."""

    pid: int
    command: str
    user: str


def wait_until(condition: Callable[[], bool], seconds: float, failure: str) -> None:
    """Ask until `condition` holds; raises TimeoutError with `failure` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s: {failure}")
        time.sleep(0.02)


def login_environment(user: str) -> dict[str, str]:
    """The environment of `user` just logged in: nothing of this process's own."""
    home = pwd.getpwnam(user).pw_dir
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}


@contextmanager
def children_born_in(pid: int) -> Iterator[None]:
    """What this thread starts inside gets the PID namespace of `pid`, and dies with it.

    `nsenter --pid` would fork a second process, on which signals to the first one are lost.
    """
    own, other = (os.open(f"/proc/{which}/ns/pid", os.O_RDONLY) for which in ("self", pid))
    try:
        _enter(other)
        try:
            yield
        finally:
            _enter(own)
    finally:
        os.close(own)
        os.close(other)


def members(init: int, without: set[str]) -> list[Process]:
    """The live processes in the PID namespace of `init`, orphans too, but not `init` or executables named `without`."""
    namespace = Path(f"/proc/{init}/ns/pid").readlink()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [found for pid in pids if pid != init and (found := _member(pid, namespace, without))]


def running_with(argument: str) -> set[int]:
    """The live processes on this machine that were started with exactly this argument."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and argument in _arguments(int(entry.name)):
            found.add(int(entry.name))
    return found


def alive(identity: str) -> int:
    """The pid of the process whose /proc/PID/stat began as `identity`; 0 if it ended, whoever has its pid now."""
    pid = int(identity.split()[0])
    try:
        now = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields, then = (text.rpartition(")")[2].split() for text in (now, identity))
    return pid if fields[19] == then[19] and fields[0] not in "ZX" else 0  # 19: when it started, in clock ticks


def listening_ports(pid: int) -> set[int]:
    """The TCP ports that anything listens on in the network of `pid`."""
    tables = [Path(f"/proc/{pid}/net/{name}") for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}


def _enter(descriptor: int) -> None:
    if LIBC.setns(descriptor, CLONE_NEWPID) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def _member(pid: int, namespace: Path, without: set[str]) -> Process | None:
    try:
        if Path(f"/proc/{pid}/ns/pid").readlink() != namespace:
            return None
        executable = Path(f"/proc/{pid}/exe").readlink()  # a zombie has none
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:  # gone, or with capabilities that even this root has not: none of a node's
        return None
    if executable.name in without:
        return None
    uid = int(status.partition("\nUid:")[2].split()[0])
    return Process(pid, " ".join(_arguments(pid)).strip(), _user(uid))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
