"""Append-only record logs: one JSON line a record, one writer a run, nothing lost to a kill.

The newest record of a key wins. Resuming needs nothing but these files.
"""

import errno
import fcntl
import hashlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, NotRequired, TypedDict, TypeVar, cast

import orjson

from orchestrator.errors import RunLocked, storage_error
from orchestrator.files import RUN_MODE, make_run_folder, mode_like
from orchestrator.records.lines import format_line, parse_line

Stage = Literal["predict", "judge"]
Status = Literal["ok", "truncated", "failed"]
Reason = Literal["connection", "429", "5xx", "deadline", "4xx", "empty", "length", "repetition"]

# What may go better with the next command; a refusal too, since servers are mended. The others give the same again
# until the spec changes.
RETRYABLE: frozenset[str] = frozenset({"connection", "429", "5xx", "deadline", "4xx"})


class Key(NamedTuple):
    """What a record is about: a question, and which of its samples."""

    id: str
    sample: int


class AnswerKey(NamedTuple):
    """What the newest record counts of: a sample, and what decided its answer."""

    id: str
    sample: int
    fingerprint: str


class VerdictKey(NamedTuple):
    """What the newest verdict counts of: an answer to a question, its reference, and who judged."""

    id: str
    sample: int
    prediction: str  # digest of what was judged
    reference: str  # digest of question and reference answer; "" in records that do not say it
    judge: str  # digest of the judge's identity


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Provenance(TypedDict):
    """Under what a record came to be. None: not known."""

    session: str  # the line of specs.jsonl with this id says more
    kosen: str
    ray: str | None
    vllm: str | None  # of our own deployment; of others' servers what they say
    transformers: str | None
    gpu: str | None  # kinds of the cluster's GPUs, "cpu" where it has none; None for others' servers
    model: str | None  # commit on the hub, or digest of the weights' files
    data: str  # digest of the questions
    rows: int  # and their number
    sampling: dict[str, Any] | None  # as it really was, the model's own defaults included


class Prediction(TypedDict):
    """One answer of the model under test, or why there is none."""

    id: str
    sample: int
    status: Status
    reason: Reason | None
    detail: str | None  # the server's own words when something went wrong
    response: str | None
    reasoning: str | None
    finish_reason: str | None
    usage: Usage | None
    attempts: int
    started_at: str  # ISO 8601, UTC
    seconds: float
    model: str
    endpoint: str
    fingerprint: str  # of what decides the answer: weights or server, engine options, messages, sampling
    spec: str  # of what can turn a failure into an answer: budget, serving options, endpoint
    prompt_sha256: str  # of the system prompt's file
    # Earlier versions did not write what follows.
    provenance: NotRequired[Provenance]
    system_fingerprint: NotRequired[str | None]  # what the server said of itself with this answer
    adapted: NotRequired[list[str]]  # what its refusals made us change in this request


class Wanted(NamedTuple):
    """A prediction that the spec asks for. `fingerprint` and `spec` are explained in Prediction."""

    id: str
    sample: int
    fingerprint: str
    spec: str
    reference: str = ""  # digest of question and reference answer, for its verdict
    legacy: str = ""  # the fingerprint that earlier versions gave it: of model's name, messages and sampling
    legacy_spec: str = ""  # and the digest `spec`: of all serving options


@dataclass(frozen=True, slots=True)
class Question:
    """One request, and what its record must say of it."""

    wanted: Wanted
    messages: list[dict[str, Any]]
    prompt_sha256: str
    options: dict[str, Any] = field(default_factory=dict)  # of this request alone, beside those of all


class JudgeIdentity(TypedDict):
    model: str
    prompt_sha256: str
    sampling: dict[str, Any]
    served: NotRequired[str]  # digest of its weights or server, of the rule its version; earlier versions lack it


class Judgement(TypedDict):
    """A verdict on one answer; `scored` where only `scores` say it, `unjudged` where none could be had."""

    id: str
    sample: int
    prediction: str  # digest of the prediction that was judged
    verdict: Literal["yes", "no", "scored", "unjudged"]
    reason: str | None  # why it is unjudged
    extracted_answer: str | None
    reasoning: str | None
    confidence: int | None
    judge: JudgeIdentity
    usage: Usage | None
    attempts: int
    # Earlier versions did not write what follows.
    reference: NotRequired[str]  # digest of the question and the reference answer that it was judged by
    provenance: NotRequired[Provenance]
    adapted: NotRequired[list[str]]  # what the judge's refusals made us change, from the trial verdict on
    scores: NotRequired[dict[str, float]]  # by name, where the task gives an answer several


R = TypeVar("R", Prediction, Judgement)
K = TypeVar("K", AnswerKey, VerdictKey)


class Entry(NamedTuple):
    """Where the newest record of a key lies in its log, and the few fields that decide what is still to do."""

    offset: int
    length: int
    state: tuple[str | None, ...]


class RecordLog(Generic[R, K]):
    """One append-only JSON-lines file with an index of the newest record of each key.

    `key_of` says what a record is about, `state_of` picks the fields to keep in memory; the records themselves stay on
    disk. Whoever constructs it must hold the run folder's lock. `repairs` says in sentences what opening had to mend.
    """

    def __init__(self, path: Path, key_of: Callable[[R], K], state_of: Callable[[R], tuple[str | None, ...]]) -> None:
        self.path = path
        self.index: dict[K, Entry] = {}
        self.repairs: list[str] = []
        self._key_of: Callable[[R], K] = key_of
        self._state_of: Callable[[R], tuple[str | None, ...]] = state_of
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode_like(path.parent))
            self._end = self._load()
        except OSError as error:
            raise storage_error(error, path) from error

    def append(self, records: Sequence[R]) -> list[R]:
        """Write `records` in one go; where that fails, as many of them as still fit. Raises StorageFailed.

        No record is ever in the file by half: that line would be read as damage. Returns the records as they stand
        there: one that cannot be written fails alone (orchestrator.records.lines).
        """
        written = [(cast(R, record), line) for record, line in map(format_line, records)]
        try:
            self._write(b"".join(line for _, line in written))
        except OSError as error:
            if len(records) == 1:
                raise storage_error(error, self.path) from error
            return [stands for record in records for stands in self.append([record])]
        for record, line in written:
            self._remember(record, self._end, len(line))
            self._end += len(line)
        return [record for record, _ in written]

    def read(self, key: K) -> R:
        """The newest record of `key`. Raises KeyError if there is none."""
        entry = self.index[key]
        record: R = orjson.loads(os.pread(self._file, entry.length, entry.offset))
        return record

    def sync(self) -> None:
        """Bring what was appended to the disk itself."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise storage_error(error, self.path) from error

    def close(self) -> None:
        self.sync()
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            os.ftruncate(self._file, self._end)
            raise

    def _load(self) -> int:
        """Index the file, cut off a torn last line, and return where the next record goes."""
        end = 0
        damaged = 0
        with open(self._file, "rb", closefd=False) as stream:
            for line in stream:
                record = parse_line(line)
                if not line.endswith(b"\n"):
                    break
                if record is None:
                    damaged += 1
                else:
                    self._remember(cast(R, record), end, len(line))
                end += len(line)
        size = os.fstat(self._file).st_size
        if end < size:
            os.ftruncate(self._file, end)
            self.repairs.append(f"{self.path.name}: cut off a torn last line of {size - end} bytes")
        if damaged:
            self.repairs.append(
                f"{self.path.name}: passed over {damaged} damaged or foreign lines; their items are asked again"
            )
        return end

    def _remember(self, record: R, offset: int, length: int) -> None:
        self.index[self._key_of(record)] = Entry(offset, length, self._state_of(record))


class RecordReader(Generic[R, K]):
    """The newest record of each key of a log that nobody need hold, in the order of the keys' first appearance.

    Keeps places, not records, and shares the ids' texts with whoever interned them: a log may have 100,000 keys. A log
    that does not exist is empty. Whole lines that are no records are passed over and counted in `n_foreign`; a last
    line without its end is a record if it is whole.
    """

    def __init__(self, path: Path, key_of: Callable[[R], K]) -> None:
        self.n_foreign = 0
        self._offsets: dict[K, int] = {}
        self._stream = path.open("rb") if path.exists() else None
        offset = 0
        for line in self._stream or ():
            record = parse_line(line)
            if record is None:
                self.n_foreign += line.endswith(b"\n")
            else:
                record["id"] = sys.intern(record["id"])
                self._offsets[key_of(cast(R, record))] = offset
            offset += len(line)

    def __iter__(self) -> Iterator[R]:
        return map(self._read, self._offsets.values())

    def get(self, key: K) -> R | None:
        offset = self._offsets.get(key)
        return None if offset is None else self._read(offset)

    def _read(self, offset: int) -> R:
        assert self._stream
        self._stream.seek(offset)
        record: R = orjson.loads(self._stream.readline())
        return record


class Owner(NamedTuple):
    """The job that writes a run: where its driver runs."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    def is_gone(self) -> bool:
        """True if this host knows that the driver has ended; another host's drivers count as alive."""
        return self.host == socket.gethostname() and not Path(f"/proc/{self.pid}").exists()


class RunLock:
    """The right to write into a run folder: a POSIX lock that the kernel frees when its holder dies.

    The owner stands in the file as text, for the sentence that refuses the next job. A driver that was killed leaves
    a writer behind that Ray ends within seconds: `patience` seconds are granted for that, and only for that. A folder
    that is not there yet is made, with `mode`.
    """

    def __init__(self, folder: Path, owner: Owner, patience: float = 30, *, mode: int = RUN_MODE) -> None:
        try:
            make_run_folder(folder, mode)
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, mode_like(folder))
        except OSError as error:
            raise storage_error(error, folder) from error
        deadline = time.monotonic() + patience
        while not self._try_lock(folder):
            holder = self._holder()
            if holder is None or not holder.is_gone() or time.monotonic() > deadline:
                os.close(self._file)
                raise RunLocked(
                    f"{folder} is being written by another job ({holder}). Wait for it, stop it, or give another run="
                )
            time.sleep(0.2)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{owner.pid} {owner.host}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._file)

    def _try_lock(self, folder: Path) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            os.close(self._file)
            raise storage_error(error, folder) from error
        return True

    def _holder(self) -> Owner | None:
        pid, _, host = os.pread(self._file, 300, 0).decode(errors="replace").strip().partition(" ")
        return Owner(host, int(pid)) if pid.isdigit() else None


def digest(value: object) -> str:
    """32 hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def answer_key(record: Prediction) -> AnswerKey:
    return AnswerKey(record["id"], record["sample"], record["fingerprint"])


def verdict_key(record: Judgement) -> VerdictKey:
    judge = digest(record["judge"])
    return VerdictKey(record["id"], record["sample"], record["prediction"], record.get("reference") or "", judge)


def answer_keys(wanted: Wanted) -> list[AnswerKey]:
    """Under which keys the record of `wanted` may lie, the better one first."""
    prints = (wanted.fingerprint, wanted.legacy)
    return [AnswerKey(wanted.id, wanted.sample, fingerprint) for fingerprint in prints if fingerprint]


def is_settled(wanted: Wanted, status: str | None, reason: str | None, spec: str | None) -> bool:
    """Whether a record of what is wanted is an answer to it, or would only fail again the same way."""
    return status == "ok" or (reason not in RETRYABLE and spec in (wanted.spec, wanted.legacy_spec))


def prediction_digest(record: Prediction) -> str:
    """What a judgement refers to: an equal answer keeps its verdict, any other makes it stale."""
    return digest([record["status"] == "failed", record["response"]])
