"""Calls functions that may never return in a process of its own, which is killed at a deadline.

For rules that hand a model's text to a library: computer algebra can loop for ever or take all memory, and math-verify
needs SIGALRM, hence a main thread. It is not a sandbox: code that a model wrote does not belong there.

The process is spawned at the first call, with none of the parent's environment but a few paths, and serves all calls of
all threads one after another. After a kill or a crash the next call spawns another. A thread of it reads the requests,
so that it exits as soon as the parent's end of the socket closes, however the parent died; where the interpreter itself
is held (one long `10**10**9`), the kernel's limit of processor time ends it instead.
"""

import contextlib
import logging
import math
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

STARTING = 120.0  # seconds for the interpreter and `warm`, on a machine under load
MEMORY = 4 * 2**30  # bytes of address space; beyond, a call raises MemoryError
KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG")  # of the environment

_Result = TypeVar("_Result")


class CallFailed(Exception):
    """The called function raised, or its process exited."""


class CallTimedOut(CallFailed):
    """The call took longer than its deadline and was killed."""


def ready() -> None:
    """What a new process calls first where there is nothing to import."""


class ScoringProcess:
    """One child process. A module that needs one keeps an instance at its top, so that nothing has to travel."""

    def __init__(self, warm: Callable[[], object] = ready, memory: int = MEMORY) -> None:
        """`warm` is called once in each new process, before any call's deadline counts: it imports what calls need."""
        self._warm, self._memory = warm, memory
        self._lock = threading.Lock()
        self._child: tuple[subprocess.Popen[bytes], Connection] | None = None
        self._owner = 0  # process id

    def call(self, seconds: float, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """`function(*arguments)`, computed in the child, where `function` is found by its module and name.

        `seconds` are wall time, without waiting for other calls or for a new process. Raises CallTimedOut, and
        CallFailed with what the function raised or how the process ended.
        """
        request = pickle.dumps((function, arguments, seconds))
        with self._lock:
            if self._child is None or self._owner != os.getpid():  # a forked copy must not share the socket
                self._child, self._owner = self._spawn(), os.getpid()
                self._prepare()
            return self._exchange(request, seconds)

    def close(self) -> None:
        """Kill the child, if there is one. A later call spawns another."""
        with self._lock:
            if self._owner == os.getpid():
                self._kill()

    def _prepare(self) -> None:
        try:
            self._exchange(pickle.dumps((self._warm, (), STARTING)), STARTING)
        except CallFailed:
            self._kill()  # else the next call would find a process that lacks what it needs
            raise

    def _exchange(self, request: bytes, seconds: float) -> Any:
        assert self._child
        connection = self._child[1]
        try:
            connection.send_bytes(request)
            if not connection.poll(seconds):
                self._kill()
                raise CallTimedOut(f"it took longer than {seconds:g} s and was killed")
            returned, value = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            raise CallFailed(f"its process ended with exit status {self._kill()}") from None
        except BaseException:  # such as KeyboardInterrupt: the reply must not be taken for that of the next call
            self._kill()
            raise
        if not returned:
            raise CallFailed(value)
        return value

    def _spawn(self) -> tuple[subprocess.Popen[bytes], Connection]:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
        ours, theirs = Pipe()
        with theirs:
            code = f"from {__name__} import serve; serve({theirs.fileno()}, {self._memory})"
            child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, and a kill reaches what a call started
            )
        return child, ours

    def _kill(self) -> int | None:
        """End the child with all of its session, and return its exit status."""
        if self._child is None:
            return None
        child, connection = self._child
        self._child = None
        connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        return child.wait()


def serve(descriptor: int, memory: int) -> None:
    """What the child does: call what arrives at a socket, until the other end closes."""
    os.set_inheritable(descriptor, False)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable()  # libraries warn of each text that they cannot read
    connection = Connection(descriptor)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    while True:
        reply = _reply(requests.get())
        try:
            connection.send_bytes(reply)
        except OSError:
            os._exit(0)


def _receive(connection: Connection, requests: "queue.SimpleQueue[bytes]") -> None:
    while True:
        try:
            requests.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _reply(request: bytes) -> bytes:
    try:
        function, arguments, seconds = pickle.loads(request)
        _limit_processor_time(seconds)
        return pickle.dumps((True, function(*arguments)))
    except BaseException as error:  # noqa: BLE001 - whatever a function raises, SystemExit too
        return pickle.dumps((False, f"{type(error).__name__}: {error}"[:2000]))


def _limit_processor_time(seconds: float) -> None:
    """Have the kernel end this process some time after the parent should have done it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + 2 * seconds + 2)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
