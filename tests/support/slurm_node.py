"""Pid 1 of a node of the small Slurm cluster: makes its file system in fresh namespaces, then reaps orphans."""

import ctypes
import json
import os
import signal
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path

MS_BIND, MS_MOVE, MS_REC = 4096, 8192, 16384
NULL_DEVICE = os.makedev(1, 3)
LIBC = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError."""
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    if LIBC.mount(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source, None, target)


def private_dev(gpus: int) -> None:
    """The machine's /dev with `gpus` fake GPUs in it. slurmd insists on character devices: these are /dev/null's."""
    scratch = Path("/mnt")  # the mount moves on to /dev
    mount("dev", str(scratch), "tmpfs", data="mode=755")
    for entry in Path("/dev").iterdir():
        copy = scratch / entry.name
        if entry.is_symlink():
            copy.symlink_to(entry.readlink())
            continue
        copy.mkdir() if entry.is_dir() else copy.touch()
        if entry.name != "shm":
            mount(str(entry), str(copy), flags=MS_BIND | MS_REC)
    for number in range(gpus):
        os.mknod(scratch / f"nvidia{number}", stat.S_IFCHR | 0o666, NULL_DEVICE)
        (scratch / f"nvidia{number}").chmod(0o666)
    mount(str(scratch), "/dev", flags=MS_MOVE)


def reap() -> None:
    """Collect what the node's dead parents left, for ever; the node's end is a SIGKILL from outside."""
    while True:
        signal.sigwait({signal.SIGCHLD})
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main() -> None:
    """The one argument is JSON: name, pid_file, gpus, shm (size), binds (ordered pairs of source and target)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    node = json.loads(sys.argv[1])
    socket.sethostname(node["name"])
    identity = Path("/proc/self/stat").read_text(encoding="utf-8")  # still the machine's /proc: its pid, not 1
    mount("proc", "/proc", "proc")
    private_dev(node["gpus"])
    mount("shm", "/dev/shm", "tmpfs", data=f"size={node['shm']},mode=1777")
    for source, target in node["binds"]:
        mount(source, target, flags=MS_BIND | MS_REC)
    os.chdir("/")
    ready = Path(node["pid_file"])
    ready.with_suffix(".part").write_text(identity, encoding="utf-8")
    ready.with_suffix(".part").rename(ready)
    reap()


if __name__ == "__main__":
    main()
