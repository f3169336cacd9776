"""From a run folder's records to its figures: the score table, metrics.json, the leaderboard folder, the exports."""

import datetime
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cluster.streams import print_json, visible
from jobs.exam import leaderboard, provenance
from jobs.exam.figures import Failures, is_complete, outcome, write_metrics
from jobs.exam.official_files import usage_of
from jobs.exam.requests import Requests
from jobs.exam.show import commonest, print_figures
from jobs.exam.spec import RULE_JUDGE, ExamSpec, earlier_identity, judge_identity
from jobs.tasks import metrics
from jobs.tasks.registry import find_task
from jobs.tasks.task import Answer, Item, Results
from orchestrator.concurrency.patience import attend
from orchestrator.errors import COMPLETE, INCOMPLETE
from orchestrator.files import write_as_open_as
from orchestrator.records.log import RecordReader
from orchestrator.records.types import (
    AnswerKey,
    Judgement,
    Prediction,
    VerdictKey,
    Wanted,
    answer_key,
    answer_keys,
    digest,
    prediction_digest,
    verdict_key,
)
from orchestrator.spec import PriceSpec
from orchestrator.tracking import track

T = TypeVar("T")


class Records:
    """The records of a run that the spec's questions, model, sampling and judge account for; others are stale.

    Who answered stands in the folder, so this asks no server and reads no weights.
    """

    def __init__(self, folder: Path, spec: ExamSpec, items: list[Item]) -> None:
        self._folder, self._given_up = folder, threading.Event()
        self.items = {item.id: item for item in items}
        self.samples = spec.samples
        served = provenance.recorded("served", spec, folder)
        self.notes = [] if served else provenance.other_sessions(folder)
        self._requests = Requests(spec, served)
        judge = judge_identity(spec, provenance.recorded("judge", spec, folder))
        self._judges = [digest(judge), digest(earlier_identity(judge))]
        self._predictions = RecordReader[Prediction, AnswerKey](folder / "predictions.jsonl", answer_key)
        self._judgements = RecordReader[Judgement, VerdictKey](folder / "judgements.jsonl", _rule_in_any_version)
        self.n_foreign = self._predictions.n_foreign + self._judgements.n_foreign

    @classmethod
    def read(cls, folder: Path, spec: ExamSpec, items: list[Item]) -> "Records":
        """As the constructor, with the disk waited for: the thread that takes Ctrl-C does not touch it."""
        return attend(lambda: cls(folder, spec, items), f"the run folder {folder}")

    def attend(self, work: Callable[[], T]) -> T:
        """What `work`, which goes through the answers, returns; likewise. Ctrl-C stops it at the next answer."""
        return attend(work, f"the run folder {self._folder}", self._given_up.set)

    def answers(self) -> Iterator[Answer]:
        """The newest prediction of each sample with this judge's verdict on just that answer, in the items' order."""
        for item in self.items.values():
            if self._given_up.is_set():
                raise KeyboardInterrupt
            for wanted in self._requests.wanted(item):
                found = (self._predictions.get(key) for key in answer_keys(wanted))
                if prediction := next(filter(None, found), None):
                    yield prediction, self._verdict(wanted, prediction)

    def results(self, model: str) -> Results:
        """For exporters; the answers are read again each time."""
        return Results(model, self.samples, self.items, self.answers)

    def _verdict(self, wanted: Wanted, prediction: Prediction) -> Judgement | None:
        """By the reference that the data have now; of records that do not say by which, the judge's."""
        answer = prediction_digest(prediction)
        keys = (
            VerdictKey(wanted.id, wanted.sample, answer, reference, judge)
            for judge in self._judges
            for reference in (wanted.reference, "")
        )
        return next(filter(None, map(self._judgements.get, keys)), None)


def _rule_in_any_version(record: Judgement) -> VerdictKey:
    """Verdicts of an earlier rule count until `jobs.judge` gives newer ones."""
    key = verdict_key(record)
    if record["judge"]["model"] != RULE_JUDGE:
        return key
    return key._replace(judge=digest(earlier_identity(record["judge"])))


def report(folder: Path, spec: ExamSpec, items: list[Item], *, as_json: bool) -> int:
    """Score a run, write its files, print the table; returns the exit code that the coverage deserves."""
    records = Records.read(folder, spec, items)
    figures, place = records.attend(lambda: _write(folder, spec, records))
    if spec.wandb.project:
        track(folder, spec.wandb.project, spec.wandb.entity, spec.wandb.mode, spec, figures)
    if as_json:
        print_json(figures)
    else:
        print_figures(figures)
        for note in figures["provenance"]["notes"]:
            print(visible(f"note: {note}"))
        print(visible(f"results: {place}"))
    return COMPLETE if is_complete(figures) else INCOMPLETE


def _write(folder: Path, spec: ExamSpec, records: Records) -> tuple[dict[str, Any], Path]:
    """The figures, and the leaderboard folder with them."""
    write_as_open_as(folder)
    figures = score(records, spec)
    write_metrics(folder / "metrics.json", figures)
    known = find_task(spec.task).known_categories
    place = leaderboard.write_leaderboard(folder, records.results(spec.model), figures, known)
    export(folder, spec, records)
    return figures, place


def describe_score(folder: Path, spec: ExamSpec, items: list[Item], *, as_json: bool) -> int:
    """What a dry run of the score shows: how much of what is asked is recorded. Writes nothing; returns COMPLETE."""
    records = Records.read(folder, spec, items)
    judged = records.attend(lambda: [judgement is not None for _, judgement in records.answers()])
    counts = {"answers": len(items) * spec.samples, "recorded": len(judged), "judged": sum(judged)}
    if as_json:
        print_json(counts | {"folder": str(folder), "judge": spec.judge, "notes": records.notes})
        return COMPLETE
    told = f"{counts['recorded']} of {counts['answers']} answers and {sum(judged)} verdicts of judge={spec.judge}"
    print(visible(f"would score {told} in {folder}, and write metrics.json, leaderboard/ and exports/ there"))
    for note in records.notes:
        print(visible(f"note: {note}"))
    return COMPLETE


def export(folder: Path, spec: ExamSpec, records: Records, *, judged: bool = True) -> None:
    """Write the task's exports; without verdicts where nothing is judged yet."""
    for exporter in find_task(spec.task).exports:
        if judged or not exporter.needs_verdicts:
            exporter.write(folder / "exports", records.results(spec.model))


def report_predictions(folder: Path, spec: ExamSpec, items: list[Item], *, as_json: bool) -> int:
    """What `jobs.predict` prints: counts of answers, why some failed, and the official file; a score is for others."""
    records = Records.read(folder, spec, items)
    counts, reasons, found = records.attend(lambda: _export_and_count(folder, spec, records))
    counts["missing"] = len(items) * spec.samples - sum(counts.values())
    if as_json:
        print_json(counts | {"reasons": dict(reasons), "commonest_failure": found, "n_foreign_line": records.n_foreign})
    else:
        print(", ".join(f"{count} {name}" for name, count in counts.items() if count))
        for reason, count in sorted(reasons.items()):
            print(visible(f"  {count} {reason}"))
        if found:
            print(visible(f"  most often: {commonest(found)}"))
        if records.n_foreign:
            print(f"  skipped {records.n_foreign} lines that are not records")
    return INCOMPLETE if counts["failed"] or counts["missing"] else COMPLETE


def _export_and_count(
    folder: Path, spec: ExamSpec, records: Records
) -> tuple[dict[str, int], Counter[str], dict[str, Any] | None]:
    """Answers by status, by reason, and the commonest failure."""
    export(folder, spec, records, judged=False)
    counts = dict.fromkeys(("ok", "truncated", "failed"), 0)
    reasons: Counter[str] = Counter()
    failures = Failures()
    for prediction, _ in failures.counted(records.answers()):
        counts[prediction["status"]] += 1
        reasons.update([prediction["reason"]] if prediction["reason"] else [])
    return counts, reasons, failures.figures()["commonest_failure"]


def score(records: Records, spec: ExamSpec) -> dict[str, Any]:
    """All figures of a run. What was not measured is None."""
    spans: list[tuple[float, float]] = []
    tally = provenance.Tally()
    judging = {"judge_prompt_tokens": 0, "judge_completion_tokens": 0}
    failures = Failures()

    def outcomes() -> Iterator[metrics.Outcome]:
        for prediction, judgement in failures.counted(records.answers()):
            spans.extend(_span(prediction))
            tally.add(prediction, judgement)
            if judgement and (usage := usage_of(judgement.get("usage"))):
                judging["judge_prompt_tokens"] += usage["prompt_tokens"]
                judging["judge_completion_tokens"] += usage["completion_tokens"]
            yield outcome(prediction, judgement)

    figures = find_task(spec.task).figures(records.items, records.samples, outcomes())
    tokens = figures.pop("tokens") | judging
    return (
        figures
        | failures.figures()
        | {
            "n_foreign_line": records.n_foreign,
            "tokens": tokens,
            "predict_seconds": _covered_seconds(spans),
            "cost": _cost(spec, tokens),
            "model": spec.model,
            "dataset": spec.dataset,
            "judge": spec.judge,
            "provenance": tally.figures(records.notes),
        }
    )


def _span(prediction: Prediction) -> Iterator[tuple[float, float]]:
    """When its request began and ended; nothing where the record does not say, as of answers from elsewhere."""
    try:
        start = datetime.datetime.fromisoformat(prediction["started_at"]).timestamp()
    except (ValueError, OverflowError, OSError):
        return
    yield start, start + prediction["seconds"]


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
