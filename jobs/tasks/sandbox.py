"""Runs untrusted Python of models: one process a program, without files, network, keys or much of the machine.

The best of these that works on the machine is found by trying, once a process:

| isolation | how | what a program can still reach |
| --- | --- | --- |
| `isolated` | namespaces of `sandbox_init`, or bubblewrap | system programs and Python's packages, read-only |
| `no-network` | namespaces but for mounts | also what its user can read, such as the home folder |
| `limits-only` | limits and signals | also the network and, without root, its user's other processes |

As root, the program gets a user id that owns nothing. Everywhere: an empty environment, a fresh folder, limits on
memory, CPU seconds, files and processes, and nothing that it started survives. What limits cannot hold is a sum:
`processes` processes may take `memory` each; the kernel's OOM killer takes them first.
"""

import itertools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jobs.tasks import sandbox_init

Isolation = Literal["limits-only", "no-network", "isolated"]
ISOLATIONS: tuple[Isolation, ...] = ("limits-only", "no-network", "isolated")  # the weakest first

GRACE = 4.0  # seconds for a sandbox to end after SIGTERM: twice what its cleaning may take
STDERR_KEPT = 2**14  # bytes: the end of a traceback, for a message
FIRST_UID, UIDS = 61184, 4000  # systemd's range for dynamic users, which no file belongs to
PER_NAMESPACE = (5, 14)  # since this kernel RLIMIT_NPROC counts the processes of a user namespace alone
_started = itertools.count()  # so that programs side by side have different users
_INIT = Path(sandbox_init.__file__)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")


class SandboxFailed(Exception):
    """A sandbox could not be set up; says why. Of a program's own end there is an Outcome."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use."""

    seconds: float = 6.0  # of wall time; CPU seconds get one more
    memory: int = 4 * 2**30  # bytes of address space a process
    file_size: int = 16 * 2**20  # bytes
    files: int = 64  # open at a time
    processes: int = 64  # and threads, at a time
    output: int = 2**20  # bytes of standard output


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. `code`: its exit code, a signal as a negative number; None: killed by us, or not known."""

    end: Literal["exited", "timeout", "flooded"]  # flooded: more output than the limit
    code: int | None
    output: bytes  # standard output, as far as the limit
    errors: bytes  # the last 16 KiB of standard error
    isolation: Isolation


@dataclass(frozen=True, slots=True)
class Way:
    """One way to isolate a program."""

    isolation: Isolation
    namespaces: bool = False  # of PIDs, network, IPC and host name
    mounts: bool = False
    user_namespace: bool = False
    bubblewrap: str = ""  # path of bwrap
    drops_user: bool = False  # from root to a user of its own


def ways() -> list[Way]:
    """All ways for this user, the best first. Root drops its user: under bubblewrap NPROC would not count for it."""
    own = [Way("isolated", True, True, True)]
    partly = [Way("no-network", True, False, True)]
    plain = [Way("limits-only")]
    bwrap = shutil.which("bwrap")
    wrapped = [Way("isolated", bubblewrap=bwrap)] if bwrap else []
    if os.geteuid() != 0:
        return [*wrapped, *own, *partly, *plain]
    root = Way("isolated", True, True, drops_user=True), Way("no-network", True, drops_user=True)
    return [root[0], *wrapped, *own, root[1], *partly, Way("limits-only", drops_user=True), *plain]


@cache
def best_way() -> Way:
    """The best way that works here. Raises SandboxFailed where none does, with what the last one said."""
    told = ""
    for way in ways():
        try:
            outcome = start("print(6 * 7)", limits=Limits(seconds=10), way=way).finish()
        except SandboxFailed as error:
            told = str(error)
            continue
        if outcome.output == b"42\n":
            return way
        told = outcome.errors.decode(errors="replace")
    raise SandboxFailed(f"no Python program can be run in a sandbox here: {told[-500:]}")


def run(source: str, stdin: bytes = b"", limits: Limits = Limits(), way: Way | None = None) -> Outcome:
    """Run a program with `stdin` as its standard input, until it ends or reaches a limit. Raises SandboxFailed."""
    return start(source, stdin, limits=limits, way=way).finish()


def start(
    source: str,
    stdin: bytes = b"",
    keep: Sequence[int] = (),
    limits: Limits = Limits(),
    way: Way | None = None,
    silent: bool = False,
) -> "Running":
    """Start a program. It inherits the file descriptors `keep`, whose numbers are its arguments. `silent`: no output
    is kept. Whoever starts it must call `finish` or `stop`, and from the same thread: the kernel ends a sandbox with
    the thread that started it. Raises SandboxFailed.
    """
    way = way or best_way()
    folder = Path(tempfile.mkdtemp(prefix="kosen-sandbox-"))
    text, given = _file(source.encode(errors="replace")), _file(stdin)
    status, reports = os.pipe()
    options = _options(way, folder, limits) | {"source": text, "status": reports, "keep": list(keep)}
    sink = subprocess.DEVNULL if silent else subprocess.PIPE
    try:
        process = subprocess.Popen(
            _command(way, options),
            stdin=given,
            stdout=sink,
            stderr=sink,
            env=_environment(),
            cwd="/",
            pass_fds=(text, reports, *keep),
            start_new_session=True,
        )
    except OSError as error:
        os.close(status)
        shutil.rmtree(folder, ignore_errors=True)
        raise SandboxFailed(f"cannot start a sandbox: {error}") from None
    finally:
        for number in (text, given, reports):
            os.close(number)
    return Running(process, status, folder, limits, way.isolation)


class Running:
    """A program that was started. Not for several threads."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", status: int, folder: Path, limits: Limits, isolation: Isolation
    ) -> None:
        self._process = process
        self._status = status
        self._folder = folder
        self._limits = limits
        self._isolation: Isolation = isolation
        self._end = time.monotonic() + limits.seconds
        self._removed = False
        self._texts = {"output": b"", "errors": b"", "status": b""}

    def finish(self, seconds: float | None = None) -> Outcome:
        """Wait for its end, `seconds` at most (default: the rest of its wall time), then remove all that is left of it.

        Raises SandboxFailed where the sandbox ended before the program began.
        """
        try:
            end = self._read(self._end if seconds is None else min(self._end, time.monotonic() + seconds))
        finally:
            self._remove()
        reports = self._texts["status"].split(b"\n")
        if end == "exited" and b"ready" not in reports:
            told = self._texts["errors"].decode(errors="replace").strip().rpartition("\n")[2]
            raise SandboxFailed(f"the sandbox could not be set up: {told or 'it ended at once'}")
        codes = [int(line.removeprefix(b"exit ")) for line in reports if line.startswith(b"exit ")]
        code = codes[-1] if codes and end == "exited" else None
        if code == -signal.SIGXCPU:
            end, code = "timeout", None
        return Outcome(end, code, self._texts["output"], self._texts["errors"], self._isolation)

    def stop(self) -> None:
        """End it now, if `finish` has not been called."""
        if not self._removed:
            self._remove()

    def _read(self, deadline: float) -> Literal["exited", "timeout", "flooded"]:
        """Read until the status pipe closes: only the sandbox holds its other end."""
        with selectors.DefaultSelector() as selector:
            pipes = {"status": self._status}
            for name, stream in (("output", self._process.stdout), ("errors", self._process.stderr)):
                if stream is not None:
                    pipes[name] = stream.fileno()
            for name, number in pipes.items():
                os.set_blocking(number, False)
                selector.register(number, selectors.EVENT_READ, name)
            while (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    if not self._take(key.data, key.fd):
                        selector.unregister(key.fd)
                        if key.data == "status":
                            return self._rest(pipes)
                if len(self._texts["output"]) > self._limits.output:
                    self._texts["output"] = self._texts["output"][: self._limits.output]
                    return "flooded"
        return "timeout"

    def _take(self, name: str, number: int) -> bool:
        """Read once; False at the end."""
        try:
            more = os.read(number, 2**16)
        except BlockingIOError:
            return True
        self._texts[name] += more
        if name == "errors":
            self._texts[name] = self._texts[name][-STDERR_KEPT:]
        return bool(more)

    def _rest(self, pipes: dict[str, int]) -> Literal["exited", "flooded"]:
        """What the pipes still hold."""
        for name in set(pipes) - {"status"}:
            size = -1
            while size != len(self._texts[name]) <= self._limits.output:
                size = len(self._texts[name])
                self._take(name, pipes[name])
        if len(self._texts["output"]) > self._limits.output:
            self._texts["output"] = self._texts["output"][: self._limits.output]
            return "flooded"
        return "exited"

    def _remove(self) -> None:
        """End the sandbox, and what it ran with it."""
        self._removed = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._status)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        _remove_folder(self._folder)


def _options(way: Way, folder: Path, limits: Limits) -> dict[str, Any]:
    """What `sandbox_init` is asked to do."""
    cpu, processes = int(limits.seconds) + 1, limits.processes + _counted_beside(way)
    pairs = {"AS": limits.memory, "FSIZE": limits.file_size, "NOFILE": limits.files, "NPROC": processes, "CORE": 0}
    return {
        "namespaces": way.namespaces,
        "mounts": way.mounts,
        "user_namespace": way.user_namespace,
        "tmp": way.mounts or bool(way.bubblewrap),
        "folder": str(folder),
        "binds": _binds(),
        "python": sys.executable,
        "uid": FIRST_UID + (os.getpid() * 7 + next(_started)) % UIDS if way.drops_user else None,
        "limits": {name: (most, most) for name, most in pairs.items()} | {"CPU": (cpu, cpu + 1)},
        "environment": _environment() | {"HOME": "/tmp" if way.mounts or way.bubblewrap else str(folder)},
    }


def _counted_beside(way: Way) -> int:
    """How many processes and threads RLIMIT_NPROC counts that are not the program's."""
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    alone = way.drops_user or way.user_namespace or bool(way.bubblewrap)
    if alone and (way.drops_user or kernel >= PER_NAMESPACE):
        return 0
    count = 0
    for task in Path("/proc").glob("[0-9]*/task"):
        with suppress(OSError):
            count += len(list(task.iterdir())) if task.stat().st_uid == os.getuid() else 0
    return count


def _binds() -> list[str]:
    """What there is in a root folder for programs: the system's libraries and Python's, outer folders first."""
    found: list[str] = []
    libraries = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(":") if Path(path).name.startswith("lib")]
    wanted = {
        *_SYSTEM,
        *filter(os.path.isabs, libraries),
        sys.prefix,
        sys.base_prefix,
        *map(os.path.realpath, (sys.prefix, sys.base_prefix)),
    }
    for path in sorted(wanted, key=len):
        beneath = any(Path(outer) in Path(path).parents and not Path(outer).is_symlink() for outer in found)
        if Path(path).exists() and not beneath:
            found.append(path)
    return found


def _environment() -> dict[str, str]:
    """All that a program finds in its environment; the library path is how some clusters' Python finds its own."""
    fixed = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return fixed | ({"LD_LIBRARY_PATH": libraries} if libraries else {})


def _command(way: Way, options: dict[str, Any]) -> list[str]:
    inner = [sys.executable, "-I", "-S"]
    if not way.bubblewrap:
        return [*inner, str(_INIT), json.dumps(options)]
    binds = []
    for path in options["binds"]:
        target = sandbox_init.root_link(path)
        binds += ["--symlink", target, path] if target else ["--ro-bind", path, path]
    tmp = ["--size", str(sandbox_init.TMP_SIZE), "--tmpfs", "/tmp"]
    place = "/run/sandbox_init.py"
    return [
        *(
            way.bubblewrap,
            "--unshare-all",
            "--die-with-parent",
            "--cap-drop",
            "ALL",
            "--uid",
            "65534",
            "--gid",
            "65534",
        ),
        *(*tmp, *binds, "--dev", "/dev", "--proc", "/proc", "--ro-bind", str(_INIT), place),
        *("--remount-ro", "/dev", "--remount-ro", "/", "--", *inner, place, json.dumps(options)),
    ]


def _file(content: bytes) -> int:
    """A file descriptor at the start of a file that has no name."""
    number = os.memfd_create("kosen")
    with open(number, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _remove_folder(folder: Path) -> None:
    """Also where a program took the write bit from its folders."""
    for path, names, _ in os.walk(folder):
        for inner in (Path(path, name) for name in names):
            with suppress(OSError):
                if not inner.is_symlink():
                    inner.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
