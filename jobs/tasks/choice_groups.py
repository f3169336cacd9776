"""Shares by subject and by group of subjects, counted while a run's outcomes pass."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jobs.tasks import metrics


class Shares:
    """Counts verdicts and scores by subject. `subjects` has each question's, by id."""

    def __init__(self, subjects: Mapping[str, str], samples: int) -> None:
        self._subjects, self._samples = subjects, samples
        self._asked = Counter(subjects.values())
        self._right: Counter[str] = Counter()
        self._judged: Counter[str] = Counter()
        self._sums: dict[str, defaultdict[str, float]] = {}  # name of a score to its sum by subject
        self._scored: dict[str, Counter[str]] = {}  # and to the number of answers that have it
        self.n_unanswered = 0

    def counted(self, outcomes: Iterable[metrics.Outcome]) -> Iterator[metrics.Outcome]:
        for outcome in outcomes:
            subject = self._subjects.get(outcome.id)
            if subject is not None and 0 <= outcome.sample < self._samples:
                self._add(outcome, subject)
            yield outcome

    def _add(self, outcome: metrics.Outcome, subject: str) -> None:
        scores = outcome.scores or {}
        self._judged[subject] += outcome.verdict in ("yes", "no")
        self._right[subject] += outcome.verdict == "yes"
        self.n_unanswered += scores.get("answered") == 0
        for name, value in scores.items():
            self._sums.setdefault(name, defaultdict(float))[subject] += value
            self._scored.setdefault(name, Counter())[subject] += 1

    def of(self, subjects: Iterable[str], outside: Sequence[str] = ()) -> dict[str, Any]:
        """The micro averages over some subjects; `outside` are left out of the scores, not of the accuracy (percent).

        An answer that is missing counts as wrong in the accuracy; the mean of a score is over the answers that have it,
        on the score's own scale. None: nothing was judged.
        """
        names = list(subjects)
        inside = [name for name in names if name not in outside]
        n_total = self._samples * sum(self._asked[name] for name in names)
        n_judged = sum(self._judged[name] for name in names)
        scores = {score: self._mean(score, inside) for score in self._sums}
        return {
            "accuracy": round(100 * sum(self._right[name] for name in names) / n_total, 2) if n_judged else None,
            "n_total": n_total,
            "n_judged": n_judged,
            "scores": {score: mean for score, mean in scores.items() if mean is not None},
        }

    def _mean(self, score: str, subjects: Sequence[str]) -> float | None:
        n = sum(self._scored[score][name] for name in subjects)
        return sum(self._sums[score][name] for name in subjects) / n if n else None
