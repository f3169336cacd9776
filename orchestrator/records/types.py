"""Defines what a run's records hold, by which keys they are found, and which of them settle what is wanted."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import orjson

Stage = Literal["predict", "judge"]
Status = Literal["ok", "truncated", "failed"]
Reason = Literal["connection", "429", "5xx", "deadline", "4xx", "empty", "length", "repetition"]

# Failure reasons worth retrying with the next command; a refusal too, since servers are fixed. The others are
# deterministic until the spec changes.
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
    """How a record was produced. None: not known."""

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
