"""What a line of a log must hold to be one of our records: logs are files, and others write into files."""

from collections.abc import Mapping
from typing import Any, get_args

from orchestrator.records import Status

_TEXT, _MAYBE_TEXT, _NUMBER = (str,), (str, type(None)), (int, float)
_PREDICTION = {
    "status": _TEXT,
    "reason": _MAYBE_TEXT,
    "response": _MAYBE_TEXT,
    "started_at": _TEXT,
    "seconds": _NUMBER,
    "model": _TEXT,
    "fingerprint": _TEXT,
}
_JUDGEMENT = {
    "prediction": _TEXT,
    "verdict": _TEXT,
    "extracted_answer": _MAYBE_TEXT,
    "reasoning": _MAYBE_TEXT,
    "confidence": (int, type(None)),
    "judge": (dict,),
}
_LATER = {  # fields that earlier versions did not write
    "provenance": (dict,),
    "adapted": (list,),
    "reference": _TEXT,
}
_JUDGE = ("model", "prompt_sha256", "sampling")


def is_prediction(record: Mapping[str, Any]) -> bool:
    """Whether a line of predictions.jsonl, of this or an earlier version, can be read as a Prediction."""
    return _fits(record, _PREDICTION) and record["status"] in get_args(Status)


def is_judgement(record: Mapping[str, Any]) -> bool:
    """The same of judgements.jsonl and a Judgement."""
    return _fits(record, _JUDGEMENT) and all(name in record["judge"] for name in _JUDGE)


def _fits(record: Mapping[str, Any], fields: Mapping[str, tuple[type, ...]]) -> bool:
    if not isinstance(record.get("id"), str) or type(record.get("sample")) is not int:
        return False
    if not all(name in record and isinstance(record[name], types) for name, types in fields.items()):
        return False
    return all(isinstance(record[name], types) for name, types in _LATER.items() if name in record)
