"""Figures of exams whose answers are programs: pass@k, right and as the original says, and how code was isolated."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.tasks.metrics import Outcome, pass_at_k
from jobs.tasks.sandbox import ISOLATIONS, Isolation

KS = (1, 10)  # as the originals report them
ISOLATION = "isolation"  # the score that carries it from an answer to the figures, as a place in ISOLATIONS


def isolation_score(isolation: Isolation | None) -> dict[str, float]:
    """For the scores of an answer; nothing where nothing ran."""
    return {} if isolation is None else {ISOLATION: float(ISOLATIONS.index(isolation))}


@dataclass(slots=True)
class PassFigures:
    """Adds pass@k to a run's figures; `original` names the score that says what the original says of an answer."""

    original: str  # also the name of its figures: humaneval_pass becomes humaneval_pass@1:10
    right: Counter[str] = field(default_factory=Counter)  # by question
    original_right: Counter[str] = field(default_factory=Counter)
    isolations: Counter[str] = field(default_factory=Counter)

    def of(
        self,
        score: Callable[[Iterable[Outcome]], dict[str, Any]],
        questions: Iterable[str],
        samples: int,
        outcomes: Iterable[Outcome],
    ) -> dict[str, Any]:
        """The figures that `score` makes of the outcomes, with more `scores` (0 to 1) and `code_execution`.

        `code_execution` is the weakest isolation that any answer ran in, `code_executions` counts answers by it.
        A sample without a verdict counts as wrong.
        """
        figures = score(self._counted(outcomes))
        scores = {name: value for name, value in figures.get("scores", {}).items() if name != ISOLATION}
        if scores.pop(self.original, None) is not None:
            figures["scores"] = scores | self._passes(list(questions), samples)
        figures["code_execution"] = next((name for name in ISOLATIONS if name in self.isolations), None)
        figures["code_executions"] = dict(self.isolations)
        return figures

    def _counted(self, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        for outcome in outcomes:
            scores: Mapping[str, float] = outcome.scores or {}
            self.right[outcome.id] += outcome.verdict == "yes"
            self.original_right[outcome.id] += bool(scores.get(self.original))
            if ISOLATION in scores:
                self.isolations[ISOLATIONS[int(scores[ISOLATION])]] += 1
            yield outcome

    def _passes(self, questions: list[str], samples: int) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, right in ((f"{self.original}@{{}}:{samples}", self.original_right), ("pass@{}", self.right)):
            for k in KS:
                if k <= samples:
                    chances = [pass_at_k(samples, min(right[one], samples), k) for one in questions]
                    found[name.format(k)] = sum(chances) / len(chances)
        return found
