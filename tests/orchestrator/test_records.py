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

from cluster.files import REPOSITORY
from orchestrator.errors import RunLocked, StorageFailed
from orchestrator.records.lock import Owner, RunLock
from orchestrator.records.log import RecordLog, RecordReader
from orchestrator.records.types import AnswerKey, Prediction, Wanted, answer_key, answer_keys, is_settled, verdict_key
from tests.support.record_logs import open_log, prediction


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


def judgement(identity: str, sample: int = 0, **fields: Any) -> dict[str, Any]:
    record = {
        "id": identity,
        "sample": sample,
        "prediction": "d",
        "verdict": "yes",
        "reason": None,
        "extracted_answer": "4",
        "reasoning": "it is",
        "confidence": 90,
        "judge": {"model": "j", "prompt_sha256": "p", "sampling": {}},
        "usage": None,
        "attempts": 1,
    }
    return record | fields


def without(record: Any, field: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != field}


FOREIGN: list[Any] = [
    {"id": 1, "sample": 0},
    {"id": "x", "sample": 0},
    {"id": "x", "sample": 0, "status": "ok"},
    {"id": "x", "sample": 0, "verdict": "yes"},
    {"time": "2026-11-27", "event": "planned"},
    {},
    [],
    [1, 2],
    "text",
    17,
    None,
    True,
    prediction(1),  # type: ignore[arg-type]
    prediction(None),  # type: ignore[arg-type]
    prediction(["x"]),  # type: ignore[arg-type]
    prediction("x", "0"),  # type: ignore[arg-type]
    prediction("x", None),  # type: ignore[arg-type]
    prediction("x", True),
    prediction("x", -1),
    prediction("x", 0.5),  # type: ignore[arg-type]
    prediction("x", status="done"),
    prediction("x", status=None),
    prediction("x", status=["ok"]),
    prediction("x", response=5),
    prediction("x", response={"text": "4"}),
    prediction("x", reason=7),
    prediction("x", seconds="1"),
    prediction("x", seconds=None),
    prediction("x", started_at=1764230000),
    prediction("x", model=None),
    prediction("x", fingerprint=None),
    prediction("x", spec=3),
    *(without(prediction("x"), name) for name in ("id", "sample", "status", "response", "seconds", "spec")),
    judgement(1),  # type: ignore[arg-type]
    judgement("x", "0"),  # type: ignore[arg-type]
    judgement("x", verdict="maybe"),
    judgement("x", verdict=True),
    judgement("x", verdict=None),
    judgement("x", prediction=None),
    judgement("x", confidence="90"),
    judgement("x", confidence=True),
    judgement("x", extracted_answer=4),
    judgement("x", reasoning=[]),
    judgement("x", judge="j"),
    judgement("x", judge={}),
    *(without(judgement("x"), name) for name in ("id", "sample", "prediction", "confidence", "judge")),
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=range(len(FOREIGN)))
@pytest.mark.parametrize("kind", ["prediction", "judgement"])
def test_a_foreign_line_of_valid_json_is_passed_over_counted_and_said(foreign: Any, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    make: Any = prediction if kind == "prediction" else judgement
    lines = [make("a"), foreign, make("b"), foreign]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    key_of: Any = answer_key if kind == "prediction" else verdict_key
    log = RecordLog[Any, Any](path, key_of, lambda record: (record["id"],))
    assert [key.id for key in log.index] == ["a", "b"]
    assert "skipped 2 damaged or foreign lines" in log.repairs[0]
    reader = RecordReader[Any, Any](path, key_of)
    assert [record["id"] for record in reader] == ["a", "b"] and reader.n_foreign == 2


@pytest.mark.parametrize(
    "ours",
    [
        prediction("x"),
        prediction("x", 7, status="failed", reason="4xx", response=None, usage=None),
        prediction("x", seconds=0, provenance={"kosen": "1"}, system_fingerprint=None),  # of a later version
        prediction("x", usage={"prompt_tokens": 1.0, "completion_tokens": 2}),
        prediction("x", usage={"prompt_tokens": "1", "completion_tokens": 2}),  # as servers sent it once
        prediction("x", usage="12"),
        without(prediction("x"), "usage"),
        prediction("x", started_at=""),  # from elsewhere
        judgement("x", usage=3),
        without(prediction("x"), "detail"),
        judgement("x"),
        judgement("x", verdict="unjudged", reason="malformed", confidence=None, extracted_answer=None, reasoning=None),
        judgement("x", confidence=82.5, reference="r"),
    ],
)
def test_records_of_this_and_of_other_versions_are_read(ours: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(ours) + "\n", encoding="utf-8")
    key_of: Any = verdict_key if "verdict" in ours else answer_key
    log = RecordLog[Any, Any](path, key_of, lambda record: (record["id"],))
    assert len(log.index) == 1 and not log.repairs


UNWRITABLE = {
    "a number of 65 bits": 2**64,
    "a negative one": -(2**63) - 1,
    "half an emoji": "\ud83d",
    "bytes": b"4",
    "a set": {1},
    "a key that is no text": {1: "x"},
    "a deep one": [[2**70]],
}


@pytest.mark.parametrize("what", UNWRITABLE)
@pytest.mark.parametrize("field", ["usage", "response", "detail", "finish_reason", "reasoning"])
def test_a_record_that_cannot_be_written_fails_alone(what: str, field: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    log = open_log(path)
    batch = [prediction(str(number)) for number in range(12)]
    batch[5][field] = UNWRITABLE[what]  # type: ignore[literal-required]
    written = log.append(batch)
    assert [record["status"] for record in written] == ["failed" if n == 5 else "ok" for n in range(12)]
    again = open_log(path)
    assert len(again.index) == 12 and not again.repairs
    failed = again.read(key("5"))
    assert (failed["status"], failed["reason"], failed["response"]) == ("failed", "5xx", None)
    assert "cannot be recorded" in str(failed["detail"])
    assert failed["fingerprint"] == "f"


@pytest.mark.parametrize("what", UNWRITABLE)
def test_a_verdict_that_cannot_be_written_is_none(what: str, tmp_path: Path) -> None:
    log = RecordLog[Any, Any](tmp_path / "judgements.jsonl", verdict_key, lambda record: (record["verdict"],))
    log.append([judgement("a"), judgement("b", usage=UNWRITABLE[what]), judgement("c")])
    again = RecordLog[Any, Any](tmp_path / "judgements.jsonl", verdict_key, lambda record: (record["verdict"],))
    assert [entry.state for entry in again.index.values()] == [("yes",), ("unjudged",), ("yes",)]
    reasons = [again.read(place)["reason"] for place in again.index]
    assert "cannot be recorded" in reasons[1]


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
        "import sys\n"
        "from pathlib import Path\nfrom tests.support.record_logs import open_log, prediction\n"
        "log = open_log(Path(sys.argv[1])); told = open(sys.argv[2], 'w')\n"
        "for i in range(10**9):\n"
        "    log.append([prediction(str(i), response='y' * 5000)]); print(i, file=told, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path), str(told)], cwd=REPOSITORY) as process:
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
