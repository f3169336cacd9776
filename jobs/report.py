"""From a run folder's records to its figures: the score table, metrics.json, the leaderboard folder, the exports."""

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import orjson

from jobs import leaderboard
from jobs.exam import ExamSpec, Requests, judge_identity
from jobs.score import outcome, print_figures, write_metrics
from jobs.tasks import hle, metrics
from orchestrator.errors import COMPLETE, INCOMPLETE
from orchestrator.privacy import write_as_open_as
from orchestrator.records import Judgement, Key, Prediction, RecordReader, prediction_digest
from orchestrator.spec import PriceSpec
from orchestrator.tracking import track


class Records:
    """The records of a run that the spec's questions, model, sampling and judge account for; others are stale."""

    def __init__(self, folder: Path, spec: ExamSpec, items: list[hle.Item]) -> None:
        self.items = {item.id: item for item in items}
        self.samples = spec.samples
        self._requests = Requests(spec)
        self._judge = judge_identity(spec)
        self._predictions = RecordReader(folder / "predictions.jsonl")
        self._judgements = RecordReader(folder / "judgements.jsonl")

    def answers(self) -> Iterator[leaderboard.Answer]:
        """The newest prediction of each sample with this judge's verdict on just that answer, in the items' order."""
        for item in self.items.values():
            for wanted in self._requests.wanted(item):
                prediction = cast(Prediction | None, self._predictions.get(Key(item.id, wanted.sample)))
                if prediction and prediction["fingerprint"] == wanted.fingerprint:
                    yield prediction, self._verdict(prediction)

    def _verdict(self, prediction: Prediction) -> Judgement | None:
        found = self._judgements.get(Key(prediction["id"], prediction["sample"]))
        judgement = cast(Judgement | None, found)
        if judgement is None or judgement["judge"] != self._judge:
            return None
        return judgement if judgement["prediction"] == prediction_digest(prediction) else None


def report(folder: Path, spec: ExamSpec, items: list[hle.Item], *, as_json: bool) -> int:
    """Score a run, write its files, print the table; returns the exit code that the coverage deserves."""
    write_as_open_as(folder)
    records = Records(folder, spec, items)
    figures = score(records, spec)
    write_metrics(folder / "metrics.json", figures)
    place = leaderboard.write_leaderboard(folder, spec.model, records.items, records.answers(), figures)
    export(folder, spec, records)
    if spec.wandb.project:
        track(folder, spec.wandb.project, spec.wandb.entity, spec.wandb.mode, spec, figures)
    if as_json:
        print(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())
    else:
        print_figures(figures)
        print(f"results: {place}")
    return COMPLETE if is_complete(figures) else INCOMPLETE


def export(folder: Path, spec: ExamSpec, records: Records) -> None:
    """The official layouts, which HLE's own tools read."""
    exports = folder / "exports"
    leaderboard.export_predictions(exports, spec.model, records.answers(), spec.samples)
    leaderboard.export_judgements(exports, spec.model, records.items, records.answers(), spec.samples)


def report_predictions(folder: Path, spec: ExamSpec, items: list[hle.Item], *, as_json: bool) -> int:
    """What `jobs.predict` tells: counts of answers, and the official file; scoring is another job's matter."""
    records = Records(folder, spec, items)
    leaderboard.export_predictions(folder / "exports", spec.model, records.answers(), spec.samples)
    counts = dict.fromkeys(("ok", "truncated", "failed"), 0)
    reasons: Counter[str] = Counter()
    for prediction, _ in records.answers():
        counts[prediction["status"]] += 1
        reasons.update([prediction["reason"]] if prediction["reason"] else [])
    counts["missing"] = len(items) * spec.samples - sum(counts.values())
    if as_json:
        print(orjson.dumps(counts | {"reasons": dict(reasons)}, option=orjson.OPT_INDENT_2).decode())
    else:
        print(", ".join(f"{count} {name}" for name, count in counts.items() if count))
        for reason, count in sorted(reasons.items()):
            print(f"  {count} {reason}")
    return INCOMPLETE if counts["failed"] or counts["missing"] else COMPLETE


def is_complete(figures: dict[str, Any]) -> bool:
    """Whether every item has an answer and every answer a verdict."""
    return not (figures["n_failed"] or figures["n_missing"] or figures["n_unjudged"])


def score(records: Records, spec: ExamSpec) -> dict[str, Any]:
    """All figures of a run. What was not measured is None."""
    spans: list[tuple[float, float]] = []
    judging = {"judge_prompt_tokens": 0, "judge_completion_tokens": 0}

    def outcomes() -> Iterator[metrics.Outcome]:
        for prediction, judgement in records.answers():
            spans.append(_span(prediction))
            if judgement and judgement["usage"]:
                judging["judge_prompt_tokens"] += judgement["usage"]["prompt_tokens"]
                judging["judge_completion_tokens"] += judgement["usage"]["completion_tokens"]
            yield outcome(prediction, judgement)

    categories = {identity: item.category for identity, item in records.items.items()}
    figures = metrics.score(categories, records.samples, outcomes())
    tokens = figures.pop("tokens") | judging
    return figures | {
        "tokens": tokens,
        "predict_seconds": _covered_seconds(spans),
        "cost": _cost(spec, tokens),
        "model": spec.model,
        "dataset": spec.dataset,
        "judge": spec.judge,
    }


def _span(prediction: Prediction) -> tuple[float, float]:
    start = datetime.datetime.fromisoformat(prediction["started_at"]).timestamp()
    return start, start + prediction["seconds"]


def _covered_seconds(spans: Iterable[tuple[float, float]]) -> float | None:
    """Time in which at least one request was under way; pauses between sessions of a resumed run do not count."""
    total, reached, seen = 0.0, float("-inf"), False
    for start, end in sorted(spans):
        seen = True
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return round(total, 1) if seen else None


def _cost(spec: ExamSpec, tokens: dict[str, int]) -> float | None:
    if spec.price is None and spec.judge_price is None:
        return None
    model = _price(spec.price, tokens["prompt_tokens"], tokens["completion_tokens"])
    judge = _price(spec.judge_price, tokens["judge_prompt_tokens"], tokens["judge_completion_tokens"])
    return round(model + judge, 4)


def _price(price: PriceSpec | None, prompt_tokens: int, completion_tokens: int) -> float:
    return (prompt_tokens * price.input + completion_tokens * price.output) / 1e6 if price else 0.0
