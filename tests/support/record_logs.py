"""A record of an answer, and a log of them."""

from pathlib import Path
from typing import Any

from orchestrator.records.log import RecordLog
from orchestrator.records.types import AnswerKey, Prediction, answer_key


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
