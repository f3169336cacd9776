"""A process for rules that may never return: deadlines, crashes, several callers, and nothing left behind."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.tasks.scoring_process import CallFailed, CallTimedOut, ScoringProcess

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def process() -> Iterator[ScoringProcess]:
    process = ScoringProcess()
    yield process
    process.close()


def wait_until_gone(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, f"{pid} is still there after {seconds} s"
        time.sleep(0.05)


def test_calls_share_one_process(process: ScoringProcess) -> None:
    assert process.call(10, pow, 2, 10) == 1024
    first = process.call(10, os.getpid)
    assert first != os.getpid()
    assert process.call(10, os.getpid) == first


@pytest.mark.parametrize(
    ("function", "argument"),
    [
        (exec, "while True: pass"),
        (sum, itertools.count()),  # holds the interpreter's lock
        (time.sleep, 60),
        (exec, "import signal, time; signal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(1)"),
    ],
)
def test_a_call_is_killed_at_its_deadline(process: ScoringProcess, function: object, argument: object) -> None:
    assert callable(function)
    before = process.call(10, os.getpid)
    start = time.monotonic()
    with pytest.raises(CallTimedOut, match=r"longer than 0.3 s"):
        process.call(0.3, function, argument)
    assert time.monotonic() - start < 5
    wait_until_gone(before, 5)
    assert process.call(10, os.getpid) != before


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", "exit status -11"),
        ("x = bytearray(8 * 2**30)", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(2**26))", "MemoryError"),
        ("import sys; sys.setrecursionlimit(100)\ndef f(): f()\nf()", "RecursionError"),
    ],
)
def test_a_failure_is_raised_and_the_next_call_works(process: ScoringProcess, code: str, message: str) -> None:
    with pytest.raises(CallFailed, match=message) as error:
        process.call(20, exec, code, {})
    assert not isinstance(error.value, CallTimedOut)
    assert process.call(10, pow, 2, 3) == 8


def test_what_cannot_travel_is_said(process: ScoringProcess) -> None:
    with pytest.raises(CallFailed, match="pickle"):
        process.call(10, eval, "lambda: 1")
    with pytest.raises(AttributeError, match="pickle"):
        process.call(10, lambda: 1)
    assert process.call(10, len, "x" * 10**6) == 10**6


def test_output_of_a_call_is_dropped(process: ScoringProcess) -> None:
    assert process.call(10, eval, "print('x' * 10**6) or 5") == 5


def test_calls_run_in_the_main_thread(process: ScoringProcess) -> None:
    assert process.call(10, signal.alarm, 0) == 0
    with ThreadPoolExecutor(1) as pool:
        code = "__import__('threading').current_thread() is __import__('threading').main_thread()"
        assert pool.submit(process.call, 10, eval, code).result()


def test_several_threads_call_at_once(process: ScoringProcess) -> None:
    def call(number: int) -> int | str:
        try:
            if number % 10 == 3:
                process.call(0.2, time.sleep, 5)
            return process.call(10, pow, number, 2)
        except CallTimedOut:
            return "late"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(call, range(30)))
    assert results == ["late" if number % 10 == 3 else number**2 for number in range(30)]


def test_the_first_deadline_does_not_count_what_warming_takes() -> None:
    process = ScoringProcess(warm=slow_import)
    assert process.call(0.5, pow, 2, 2) == 4
    process.close()


def slow_import() -> None:
    time.sleep(1)


def test_a_process_that_cannot_be_warmed_serves_no_call() -> None:
    process = ScoringProcess(warm=broken_import)
    for _ in range(2):
        with pytest.raises(CallFailed, match="ImportError: not here"):
            process.call(10, pow, 2, 2)
    process.close()


def broken_import() -> None:
    raise ImportError("not here")


def test_no_secret_and_no_setting_is_in_its_environment(
    process: ScoringProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOSEN_API_KEY", "secret")
    names = set(process.call(10, eval, "dict(__import__('os').environ)"))
    assert names <= {"PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG", "PYTHONPATH", "LC_CTYPE"}


def test_descriptors_do_not_leak(process: ScoringProcess) -> None:
    process.call(10, pow, 1, 1)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        with pytest.raises(CallTimedOut):
            process.call(0.05, time.sleep, 5)
        with pytest.raises(CallFailed):
            process.call(5, os._exit, 1)
    process.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1  # noqa: PTH208


@pytest.mark.parametrize("call", ["(600, time.sleep, 600)", "(2, sum, itertools.count())"])
def test_it_does_not_outlive_a_killed_parent(call: str) -> None:
    script = textwrap.dedent(f"""
        import itertools, os, threading, time
        from jobs.tasks.scoring_process import ScoringProcess
        process = ScoringProcess()
        print(process.call(60, os.getpid), flush=True)
        threading.Thread(target=process.call, args={call}).start()
        time.sleep(0.5)
        print("called", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.stdout.readline()
        parent.kill()
        wait_until_gone(child, 60)


def test_a_forked_copy_starts_its_own(process: ScoringProcess) -> None:
    before = process.call(10, os.getpid)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, str(process.call(10, os.getpid)).encode())
        os._exit(0)
    os.wait()
    assert int(os.read(reader, 20)) != before
    os.close(reader)
    os.close(writer)
    assert process.call(10, os.getpid) == before
