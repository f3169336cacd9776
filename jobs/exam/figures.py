"""From answers and verdicts to the figures of a score, and why some of them are missing."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.exam.official_files import usage_of
from jobs.tasks import metrics
from jobs.tasks.json_files import write_json
from jobs.tasks.task import Answer
from orchestrator.errors import storage_error
from orchestrator.records.types import Judgement, Prediction


def outcome(prediction: Prediction, judgement: Judgement | None) -> metrics.Outcome:
    """What the score needs of a prediction and its verdict. Usage of earlier records may be of any shape."""
    usage = usage_of(prediction.get("usage")) or {"prompt_tokens": 0, "completion_tokens": 0}
    return metrics.Outcome(
        id=prediction["id"],
        sample=prediction["sample"],
        status=prediction["status"],
        verdict=judgement["verdict"] if judgement else None,
        confidence=judgement["confidence"] if judgement else None,
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        scores=judgement.get("scores") if judgement else None,
    )


def is_complete(figures: Mapping[str, Any]) -> bool:
    """Whether every item has an answer and every answer a verdict."""
    return not (figures["n_failed"] or figures["n_missing"] or figures["n_unjudged"])


def write_metrics(path: Path, figures: Mapping[str, Any]) -> None:
    """Write the figures as indented JSON. Raises StorageFailed."""
    try:
        write_json(path, figures)
    except OSError as error:
        raise storage_error(error, path) from None


class Failures:
    """Counts why answers failed and verdicts are missing, as they pass."""

    def __init__(self) -> None:
        self._reasons: Counter[str] = Counter()
        self._unjudged: Counter[str] = Counter()
        self._alike: Counter[tuple[str, str]] = Counter()
        self._first: dict[tuple[str, str], str] = {}

    def counted(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        for prediction, judgement in answers:
            if prediction["status"] == "failed":
                self._add(prediction["reason"] or "unknown", str(prediction.get("detail") or ""))
            elif judgement and judgement["verdict"] == "unjudged":
                self._unjudged[judgement.get("reason") or "no verdict"] += 1
            yield prediction, judgement

    def _add(self, reason: str, detail: str) -> None:
        # Servers put a request's number or address into the same sentence.
        alike = reason, re.sub(r"0x[0-9a-f]+|\b\w*\d\w*", "#", detail)
        self._first.setdefault(alike, detail)
        self._reasons[reason] += 1
        self._alike[alike] += 1

    def figures(self) -> dict[str, Any]:
        """Failed answers and unjudged ones by reason, and the commonest failure with the server's own words."""
        found = self._alike.most_common(1)
        return {
            "failures": dict(self._reasons),
            "commonest_failure": {"count": found[0][1], "reason": found[0][0][0], "detail": self._first[found[0][0]]}
            if found
            else None,
            "unjudged": dict(self._unjudged),
        }
