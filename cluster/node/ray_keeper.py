"""Keeps Ray running on one node: starts it, waits for its end, leaves nothing of it behind."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cluster.errors import ClusterError
from cluster.machine.logs import keep_logs
from cluster.machine.network import parse_host_port
from cluster.machine.processes import start_time
from cluster.machine.ray_command import SLOW_START, RayNode, ray_command, ray_environment
from cluster.machine.temp_dirs import new_temp_dir
from cluster.node.cleanup_guard import Guard, Watched, end

HEAD_TRIES = 3  # a head's failed start ends everything, so it gets fewer than a worker
JOIN_TRIES = 10  # in a row; a worker that stayed for STEADY seconds starts counting again
STEADY = 60.0  # seconds
BACKOFF = 15.0  # seconds at most between two tries
LOST_TIMEOUT = 1800.0  # seconds that a disconnected worker keeps trying to reach the head
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # the scheduler's, and the batch script's


class Keeper:
    """Runs one Ray at a time in a folder of its own. `plan` makes the node that is to be started in a folder."""

    def __init__(
        self,
        plan: Callable[[str, str | None], RayNode],
        *,
        job_id: str,
        temp_root: str,
        environment: Mapping[str, str],
        kept_logs: Path,
        log: IO[str],
        tell: Callable[[str], None],
    ) -> None:
        self._plan, self._job_id, self._temp_root, self._environment = plan, job_id, temp_root, environment
        self._kept_logs, self._log, self._tell = kept_logs, log, tell
        self._guard = Guard()
        self._watched: Watched | None = None
        self._lock: IO[str] | None = None
        self._token = b""

    def keep_head(self, listening: Callable[[], None]) -> None:
        """Run the head until it ends, which is an error; `listening` is called once its GCS takes connections."""
        for _ in range(HEAD_TRIES):
            position = self._log.tell()
            ray, node = self._start(None)
            while ray.poll() is None and not is_listening(node.ip, node.ports["gcs"]):
                time.sleep(0.05)
            if ray.poll() is None:
                listening()
            code = ray.wait()
            self.end()
            if SLOW_START not in self._since(position):
                raise ClusterError(f"Ray's head ended with code {code}")
            self._tell("Ray did not start in time; retrying")
        raise ClusterError(f"Ray's head did not start in {HEAD_TRIES} tries")

    def keep_worker(self, head: str) -> None:
        """Run a worker of the cluster at `head`, again whenever it ends. Raises ClusterError beyond the bounds."""
        failures = 0
        while failures < JOIN_TRIES:
            self._find_way(head)
            started = time.monotonic()
            ray, _ = self._start(head)
            code = ray.wait()
            self.end()
            lived = time.monotonic() - started
            failures = 1 if lived > STEADY else failures + 1
            self._tell(f"Ray ended with code {code} after {lived:.0f} s; retrying ({failures} of {JOIN_TRIES})")
            time.sleep(min(BACKOFF, 2.0 ** (failures - 1)))
        raise ClusterError(f"Ray ended {JOIN_TRIES} times in a row, the last time with code {code}")

    def end(self) -> None:
        """End what runs, keep its logs, remove its folder. A signal meanwhile comes when that is done."""
        with _undisturbed():
            if watched := self._watched:
                end(watched, before_removal=lambda: self._keep_logs(Path(watched.temp_dir)))
                self._guard.watch(None)
                self._watched = None

    def _start(self, head: str | None) -> "tuple[subprocess.Popen[bytes], RayNode]":
        with _undisturbed():  # whatever exists is also known, when a signal stops it
            temp_dir, self._lock = new_temp_dir(self._temp_root, self._job_id)
            self._watched = Watched(temp_dir, 0, 0)
            node = self._plan(temp_dir, head)
            self._token = node.token.read_bytes().strip()
            ray = self._spawn(node)
            self._watched = Watched(temp_dir, ray.pid, start_time(ray.pid))
            self._guard.watch(self._watched)
        return ray, node

    def _spawn(self, node: RayNode) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            ray_command(node),
            env=ray_environment(self._environment, node),
            stdin=subprocess.DEVNULL,
            stdout=self._log,  # not the step's pipe, which an orphan would keep open
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_hear_signals,  # a signal that is blocked here would stay so in Ray; there are no threads here
        )

    def _find_way(self, head: str) -> None:
        """Wait until the head's GCS takes connections: a lost link does not count as a failed start."""
        host, port = parse_host_port(head)
        deadline = time.monotonic() + LOST_TIMEOUT
        while not is_listening(host, port):
            if time.monotonic() > deadline:
                raise ClusterError(f"could not connect to the head at {head} for {LOST_TIMEOUT / 60:.0f} minutes")
            time.sleep(0.2)

    def _since(self, position: int) -> str:
        with Path(self._log.name).open(encoding="utf-8", errors="replace") as file:
            file.seek(position)
            return file.read()

    def _keep_logs(self, temp_dir: Path) -> None:
        """Ray's own logs of this life; those of an earlier one are replaced."""
        with suppress(OSError):  # no session, where Ray did not get that far
            keep_logs((temp_dir / "session_latest").resolve(strict=True) / "logs", self._kept_logs, self._token)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold the stop signals back; one that came is delivered at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _hear_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def is_listening(host: str, port: int) -> bool:
    """Whether a server takes connections at `host:port`."""
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True
