"""Runs jobs as users do, as processes of their own, against one local cluster for a whole test session."""

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from cluster.files import REPOSITORY
from cluster.state import ClusterState, parse_state
from orchestrator import errors

CATEGORIES = ["Math", "Physics", "Chemistry", "Engineering", "Other"]


def write_exam(path: Path, questions: list[str]) -> Path:
    """An exam in HLE's schema; the scripted server answers with what follows `say:`, the gold is the question's number.

    Every third gold is wrong, so that a score of 100 % would be a mistake.
    """
    rows = [
        {
            "id": f"{number:024x}",
            "question": text,
            "answer": str(number if number % 3 else number + 1),
            "answer_type": "exactMatch",
            "category": CATEGORIES[number % len(CATEGORIES)],
            "image": "",
        }
        for number, text in enumerate(questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def numbered(count: int, marker: str = "") -> list[str]:
    return [f"Question {number} {marker} say: {number}" for number in range(count)]


def start(module: str, *arguments: str) -> subprocess.Popen[str]:
    return start_python("-m", module, *arguments)


def start_python(*arguments: str) -> subprocess.Popen[str]:
    """A job in a process group of its own, so that killing it is one signal."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(module: str, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """A job from start to end."""
    process = start(module, *arguments)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)  # so that it takes its own down
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Said:
    """What a job writes to standard error, as it comes."""

    def __init__(self, job: subprocess.Popen[str]) -> None:
        self._lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self._lines.extend(job.stderr or ()), daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        return "".join(self._lines)

    def __contains__(self, part: str) -> bool:
        return part in self.text

    def all(self) -> str:
        """To its end."""
        self._reader.join(10)
        return self.text


def seconds_to_end(job: subprocess.Popen[str], number: signal.Signals) -> float:
    sent = time.monotonic()
    job.send_signal(number)
    job.wait(60)
    return time.monotonic() - sent


def call(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same inside this process, where the imports, seconds of a job, are made already: for tests of what a command
    says and does, not of how its process starts and ends. What it sets in the environment ends with it."""
    main = importlib.import_module(module).main
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        code = errors.exit_code(lambda: main(arguments))
    if code == errors.INTERRUPTED:
        raise KeyboardInterrupt  # it was the tests that somebody wants to end
    return subprocess.CompletedProcess([module, *arguments], code, out.getvalue(), err.getvalue())


def records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a record log."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until `condition` gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return value


def processes_titled(part: str) -> list[psutil.Process]:
    """Ray renames its workers; their titles say what they run. On this machine, whosever they are."""
    return [process for process in psutil.process_iter(["cmdline"]) if part in " ".join(process.info["cmdline"] or [])]


def cluster_processes(part: str) -> list[psutil.Process]:
    """Those with such a title that the cluster of this test session has started."""
    state = Path(os.environ["KOSEN_HOME"]) / "clusters" / "local" / "state.json"
    temporary = json.loads(state.read_text(encoding="utf-8"))["temp_dir"]
    return [process for process in processes_titled(part) if _is_below(process, temporary)]


def _is_below(process: psutil.Process, part: str) -> bool:
    """Whether the command line of a process above this one, its raylet for example, has `part`."""
    with suppress(psutil.NoSuchProcess):
        return any(part in " ".join(parent.cmdline()) for parent in process.parents())
    return False


LEAST_STATE: dict[str, Any] = {
    **{"name": "c", "phase": "ready", "scheduler": "slurm", "run_root": "/runs"},
    **{"ray_address": "10.0.0.1:6379", "dashboard_url": "http://127.0.0.1:1"},
    **{"nodes": [], "ports": {"serve": 8000}},
}


def state_with(**values: Any) -> ClusterState:
    """What a state file with these values, and as few others as it needs, is read as."""
    return parse_state(json.dumps(LEAST_STATE | values))


@contextmanager
def local_cluster(home: Path) -> Iterator[dict[str, Any]]:
    """A local cluster under a state folder of its own; jobs started meanwhile find it."""
    before = os.environ.get("KOSEN_HOME")
    os.environ["KOSEN_HOME"] = str(home)
    try:
        up = run("cluster", "up", "--json", timeout=120)
        assert up.returncode == 0, up.stderr
        yield json.loads(up.stdout)
    finally:
        run("cluster", "down", "--name", "local", timeout=120)
        if before is None:
            del os.environ["KOSEN_HOME"]
        else:
            os.environ["KOSEN_HOME"] = before
