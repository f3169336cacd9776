"""The record logs: nothing is lost to a kill, a torn line or a full disk, and one job writes at a time."""

import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import RunLocked, StorageFailed
from orchestrator.records import (
    AnswerKey,
    Owner,
    Prediction,
    RecordLog,
    RecordReader,
    RunLock,
    Wanted,
    answer_key,
    answer_keys,
    is_settled,
)


def prediction(identity: str, sample: int = 0, **fields: Any) -> Prediction:
    record = {
        "id": identity,
        "sample": sample,
        "status": "ok",
        "reason": None,
        "detail": None,
        "response": "Answer: 4",
        "reasoning": None,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "attempts": 1,
        "started_at": "2026-11-20T00:00:00.000+00:00",
        "seconds": 1.0,
        "model": "m",
        "endpoint": "http://localhost/v1",
        "fingerprint": "f",
        "spec": "s",
        "prompt_sha256": "p",
    }
    return record | fields  # type: ignore[return-value]


def open_log(path: Path) -> RecordLog[Prediction, AnswerKey]:
    return RecordLog[Prediction, AnswerKey](path, answer_key, lambda record: (record["status"],))


def key(identity: str, sample: int = 0, fingerprint: str = "f") -> AnswerKey:
    return AnswerKey(identity, sample, fingerprint)


def test_newest_record_of_a_key_wins_and_survives_reopening(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    log = open_log(path)
    log.append([prediction("a", response="first"), prediction("b"), prediction("a", 1)])
    log.append([prediction("a", response="second")])
    assert log.read(key("a"))["response"] == "second"
    again = open_log(path)
    assert again.read(key("a"))["response"] == "second"
    assert set(again.index) == {key("a"), key("b"), key("a", 1)}
    assert [(r["id"], r["sample"], r["response"]) for r in RecordReader[Prediction, AnswerKey](path, answer_key)] == [
        ("a", 0, "second"),
        ("b", 0, "Answer: 4"),
        ("a", 1, "Answer: 4"),
    ]


def test_a_torn_last_line_is_cut_off_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    open_log(path).append([prediction("a"), prediction("b")])
    whole = path.read_bytes()
    for cut in (1, 20, len(whole) // 2 - 1):
        path.write_bytes(whole[:-cut])
        log = open_log(path)
        assert set(log.index) == {key("a")}
        assert "torn last line" in log.repairs[0]
        log.append([prediction("c")])
        assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_a_damaged_line_in_the_middle_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    open_log(path).append([prediction("a"), prediction("b"), prediction("c")])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * 40 + b"\n" + lines[2])
    log = open_log(path)
    assert set(log.index) == {key("a"), key("c")}
    assert "1 damaged" in log.repairs[0]
    assert log.read(key("c"))["id"] == "c"


def test_a_full_disk_keeps_what_was_recorded_and_leaves_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    log = open_log(path)
    log.append([prediction("a")])
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # the kernel writes 100 bytes, then refuses
    try:
        with pytest.raises(StorageFailed):
            log.append([prediction("b", response="x" * 1000)])
        assert path.stat().st_size == size
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * size, hard))
        with pytest.raises(StorageFailed):  # of five that come together, those that fit are kept
            log.append([prediction(str(number)) for number in range(5)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    log.append([prediction("c")])
    assert set(open_log(path).index) == {key(name) for name in ("a", "0", "1", "c")}
    assert not open_log(path).repairs


def test_a_killed_writer_loses_nothing_that_append_returned_for(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    told = tmp_path / "told"
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]\n"
        "from pathlib import Path\nfrom test_records import open_log, prediction\n"
        "log = open_log(Path(sys.argv[1])); told = open(sys.argv[2], 'w')\n"
        "for i in range(10**9):\n"
        "    log.append([prediction(str(i), response='y' * 5000)]); print(i, file=told, flush=True)\n"
    )
    places = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    with subprocess.Popen([sys.executable, "-c", code, str(path), str(told), *places]) as process:
        deadline = time.monotonic() + 60
        while (not told.exists() or told.read_text().count("\n") < 50) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    recorded = {int(place.id) for place in open_log(path).index}
    assert recorded >= {int(line) for line in told.read_text().splitlines(keepends=True) if line.endswith("\n")}
    assert len(recorded) >= 50


def hold_lock(folder: Path, owner: Owner, ready: Any) -> None:
    RunLock(folder, owner)
    ready.set()
    time.sleep(60)


@pytest.mark.parametrize("driver_lives", [True, False])
def test_the_lock_refuses_a_second_job_but_waits_for_a_dead_ones_writer(tmp_path: Path, driver_lives: bool) -> None:
    ready = multiprocessing.Event()
    owner = Owner(socket.gethostname(), os.getpid() if driver_lives else 2**22 + 1)
    holder = multiprocessing.Process(target=hold_lock, args=(tmp_path, owner, ready))
    holder.start()
    try:
        assert ready.wait(30)
        started = time.monotonic()
        with pytest.raises(RunLocked, match=rf"being written by another job \(pid {owner.pid} on "):
            RunLock(tmp_path, Owner("here", 1), patience=1.0)
        waited = time.monotonic() - started
        assert waited < 0.9 if driver_lives else waited >= 1.0
    finally:
        holder.kill()
        holder.join()
    RunLock(tmp_path, Owner("here", 1), patience=5).release()  # the kernel freed the dead holder's lock


def test_another_setting_keeps_its_own_answers(tmp_path: Path) -> None:
    """Temperatures 0.1, 0.2 and 0.1 again in one folder: the answers to the first are found again."""
    path = tmp_path / "predictions.jsonl"
    log = open_log(path)
    log.append([prediction("a", fingerprint="0.1", response="cold"), prediction("a", fingerprint="0.2")])
    log.append([prediction("a", fingerprint="0.2", response="newest")])
    for again in (log, open_log(path)):
        assert again.read(key("a", fingerprint="0.1"))["response"] == "cold"
        assert again.read(key("a", fingerprint="0.2"))["response"] == "newest"


def test_answers_of_earlier_versions_are_found_behind_those_of_this_one() -> None:
    wanted = Wanted("a", 0, "now", "s", legacy="then")
    assert answer_keys(wanted) == [key("a", fingerprint="now"), key("a", fingerprint="then")]
    assert answer_keys(wanted._replace(fingerprint="")) == [key("a", fingerprint="then")]  # who answers is not known


@pytest.mark.parametrize(
    ("status", "reason", "spec", "settled"),
    [
        ("ok", None, "s", True),
        ("ok", None, "other", True),  # a larger budget changes no finished answer
        ("failed", "5xx", "s", False),
        ("failed", "deadline", "s", False),
        ("failed", "4xx", "s", False),  # the server may have been mended
        ("failed", "empty", "s", True),
        ("truncated", "length", "s", True),
        ("truncated", "length", "other", False),
        ("truncated", "repetition", "s", True),
    ],
)
def test_what_is_asked_again(status: str, reason: str | None, spec: str, settled: bool) -> None:
    assert is_settled(Wanted("a", 0, "f", "s"), status, reason, spec) is settled
