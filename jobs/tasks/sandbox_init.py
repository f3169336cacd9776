"""Sets up a sandbox around itself and runs one untrusted Python program in it; `sandbox` starts it as a process.

It runs as a plain file under `python -I -S` and imports nothing of ours. In namespaces there are three processes: this
one in the old PID namespace; process 1 of the new one, which sees a root folder made of what Python needs and nothing
else; and the program, without privileges. When either of the first two dies, the kernel kills all that the program
started. Without namespaces this process adopts what the program leaves behind and kills it.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRAM = "main.py"
TMP_SIZE = 64 * 2**20  # bytes that a program can write in all, where there are mounts
CLEANING = 2.0  # seconds to kill what a program left behind, where there is no PID namespace

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x4000000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # number of the system call
# statvfs has these flags of a mount; a remount in a user namespace must keep them.
KEPT_FLAGS = {2: MS_NOSUID, 4: MS_NODEV, 8: MS_NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def main(options: dict[str, Any]) -> int:
    """Run the program; the exit status is 0 once it ran, however it ended."""
    alone = options["namespaces"]
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL if alone else signal.SIGTERM)
    prefer_for_oom()
    os.umask(0o022)
    if alone:
        enter_namespaces(options["user_namespace"], options["mounts"])
        first = os.fork()
        if first:
            close_all_but(())
            return os.waitpid(first, 0)[1]
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(PR_SET_DUMPABLE, 0)
        if options["mounts"]:
            make_root(options["folder"], options["binds"])
    else:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGTERM, lambda *_: leave(options))
    run(options)
    return 0


def run(options: dict[str, Any]) -> None:
    """Write the program's file, start it, and report on the status pipe: that it is ready, then how it ended."""
    os.chdir("/tmp" if options["tmp"] else options["folder"])
    write_program(options["source"], options["uid"])
    os.write(options["status"], b"ready\n")
    program = os.fork()
    if program == 0:
        start_program(options)
    close_all_but((options["status"],))
    status = wait_for(program)
    if not options["namespaces"]:
        kill_descendants(options["uid"])
    os.write(options["status"], f"exit {os.waitstatus_to_exitcode(status)}\n".encode())


def start_program(options: dict[str, Any]) -> None:
    """Become the program: a session of its own, its limits, no privileges, and no file but those to be kept."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        close_all_but((0, 1, 2, *options["keep"]))
        for name, (soft, hard) in options["limits"].items():
            number = getattr(resource, f"RLIMIT_{name}")
            most = resource.getrlimit(number)[1]
            resource.setrlimit(number, (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most),) * 2)
        drop_user(options["uid"])
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        keep = [str(number) for number in options["keep"]]
        os.execve(options["python"], [options["python"], "-I", "-X", "utf8", PROGRAM, *keep], options["environment"])
    except Exception as error:  # noqa: BLE001 - told, whatever it is
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(127)


def enter_namespaces(user: bool, mounts: bool) -> None:
    """Raises OSError where the system refuses."""
    flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    flags |= (CLONE_NEWUSER if user else 0) | (CLONE_NEWNS if mounts else 0)
    uid, gid = os.geteuid(), os.getegid()
    check(_libc.unshare(flags), "unshare")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
            Path("/proc/self", name).write_text(text)


def make_root(folder: str, binds: list[str]) -> None:
    """Replace the root folder by a read-only one that holds `binds`, some devices and an empty, writable /tmp."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, f"size={TMP_SIZE},mode=755")
    root = Path(folder)
    for name in ("tmp", "dev", "proc", "old"):
        (root / name).mkdir()
    mount("tmpfs", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={TMP_SIZE},mode=1777")
    for path in binds:
        bind(path, root)
    for name in DEVICES:
        (root / "dev" / name).touch()
        mount(f"/dev/{name}", f"{root}/dev/{name}", None, MS_BIND)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        (root / "dev" / name).symlink_to(f"/proc/self/fd{target}")
    _libc.mount(b"proc", f"{root}/proc".encode(), b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)  # else none
    os.chdir(root)
    check(_libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"old"), "pivot_root")
    os.chdir("/")
    check(_libc.umount2(b"/old", MNT_DETACH), "umount")
    Path("/old").rmdir()
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def bind(path: str, root: Path) -> None:
    """Have `path` below `root`, read-only; a link in the root folder stays a link."""
    place = root / path.lstrip("/")
    if target := root_link(path):
        place.symlink_to(target)
        return
    if Path(path).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    mount(path, str(place), None, MS_BIND | MS_REC)
    flags = os.statvfs(place).f_flag
    kept = sum(flag for bit, flag in KEPT_FLAGS.items() if flags & bit)
    mount(None, str(place), None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | kept)


def root_link(path: str) -> str:
    """Where a link of the root folder, such as /lib, points to; "" for all else."""
    here = Path(path)
    return str(here.readlink()) if here.is_symlink() and here.parent == Path("/") else ""


def write_program(source: int, uid: int | None) -> None:
    """The program's text, out of its file descriptor, into the working folder, which becomes the program's own."""
    with open(source, "rb") as text:
        Path(PROGRAM).write_bytes(text.read())
    if uid is not None and Path.cwd() != Path("/tmp"):
        os.chown(".", uid, uid)


def drop_user(uid: int | None) -> None:
    """From root to a user that owns nothing, so that RLIMIT_NPROC counts and no other process can be touched."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def wait_for(program: int) -> int:
    """The program's wait status; what it leaves behind is reaped meanwhile."""
    while True:
        pid, status = os.wait()
        if pid == program:
            return status


def leave(options: dict[str, Any]) -> None:
    """On SIGTERM: nothing of the program stays."""
    kill_descendants(options["uid"])
    os._exit(0)


def kill_descendants(uid: int | None) -> None:
    """Kill and reap all that the program left, also in other sessions: they are this process's children by now."""
    end = time.monotonic() + CLEANING
    while time.monotonic() < end:
        if uid is not None:
            kill_all_of(uid)
        for pid in descendants():
            with suppress(OSError):  # it ended meanwhile
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.005)  # seconds, within the deadline above
        except ChildProcessError:
            return


def kill_all_of(uid: int) -> None:
    """Kill every process of a user: no race with one that forks meanwhile."""
    child = os.fork()
    if child == 0:
        try:
            drop_user(uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def descendants() -> list[int]:
    """The processes below this one, from /proc."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def close_all_but(keep: tuple[int, ...]) -> None:
    """Close every file descriptor that is not in `keep`."""
    before = -1
    for number in (*sorted(keep), resource.getrlimit(resource.RLIMIT_NOFILE)[1]):
        if before + 1 < number:  # an empty range would close them all
            os.closerange(before + 1, min(number, 2**20))
        before = number
    for number in keep:
        os.set_inheritable(number, True)


def prefer_for_oom() -> None:
    """Where the memory of the machine ends, the kernel kills this first, and what it starts."""
    with suppress(OSError):  # a system without it
        Path("/proc/self/oom_score_adj").write_text("1000")


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    check(_libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def prctl(option: int, value: int) -> None:
    check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    sys.exit(min(main(json.loads(sys.argv[1])), 1))
