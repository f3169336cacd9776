"""Sums the scores of a run's answers while `metrics.score` reads them, for figures that are not a mean over answers."""

from collections.abc import Container, Iterable, Iterator

from jobs.tasks.metrics import Outcome


class ScoreSums:
    """Passes the outcomes of a run on; then `total` has the sums of their scores."""

    def __init__(self, ids: Container[str], samples: int) -> None:
        self._ids, self._samples = ids, samples
        self._sums: dict[str, float] = {}

    def passing(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        for outcome in outcomes:
            if outcome.id in self._ids and 0 <= outcome.sample < self._samples:
                for name, value in (outcome.scores or {}).items():
                    self._sums[name] = self._sums.get(name, 0.0) + value
            yield outcome

    def total(self, name: str) -> float:
        return self._sums.get(name, 0.0)

    def ratio(self, part: str, whole: str) -> float | None:
        """One sum over another; None where there is nothing to divide by."""
        return self.total(part) / self.total(whole) if self.total(whole) else None
