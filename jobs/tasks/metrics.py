"""Scores of an exam: accuracy with its intervals, calibration, coverage. All figures are percent.

What HLE's official code computes is computed here in its own order of operations, numpy's rounding included, so that
the figures are the same to the last bit.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from jobs.tasks.calibration import calibration_error, calibration_error_official, official_range

Z_95 = 1.96  # the official code's quantile of the normal distribution for 95 %


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sample of one question. `None` stands for a record that does not exist."""

    id: str
    sample: int
    status: Literal["ok", "truncated", "failed"] | None
    verdict: Literal["yes", "no", "scored", "unjudged"] | None
    confidence: int | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    scores: Mapping[str, float] | None = None


def wald_half_width(accuracy: float, n: int) -> float:
    """Half the width of the 95 % interval around `accuracy` (percent, rounded before) of `n` questions; 0 at 0 and 100.

    Formula: Wald's normal approximation, 1.96·sqrt(p(100−p)/n), as in HLE's official code.
    """
    return round(Z_95 * math.sqrt(accuracy * (100 - accuracy) / n), 2)


def clustered_half_width(means: Sequence[float]) -> float | None:
    """Half the width (percent) of the 95 % interval around the mean of `means`, one (0 to 1) for each question.

    Formula: 1.96 standard errors over question means, sqrt(Σ(m − m̄)²/(n−1)/n), which is E. Miller (2024), Adding Error
    Bars to Evals, arXiv:2411.00640: its clustered standard error (eq. 4) where every question has equally many samples,
    with the n−1 of its eq. 1. It shrinks as samples make the questions' means surer. None for less than two questions.
    """
    variance = _variance_of_mean(means)
    return None if variance is None else round(100 * Z_95 * math.sqrt(variance), 2)


def effective_questions(means: Sequence[float], samples: int) -> float:
    """How many questions, asked once each, would give the mean of `means` the variance that it has.

    Formula: n* = p(1−p)/variance, the design effect's (L. Kish 1965; E. Korn and B. Graubard 1998, Survey Methodology
    24, for Wilson's interval). At least the number of questions, at most that of answers, and the first where p is 0
    or 1, since nothing is known of the variance then.
    """
    n, p, variance = len(means), sum(means) / len(means), _variance_of_mean(means)
    if variance is None or not 0 < p < 1:
        return n
    return min(max(n, p * (1 - p) / variance), n * samples) if variance else n * samples


def _variance_of_mean(means: Sequence[float]) -> float | None:
    n = len(means)
    if n < 2:
        return None
    mean = sum(means) / n
    return sum((value - mean) ** 2 for value in means) / (n - 1) / n


def wilson_interval(successes: float, n: float) -> list[float]:
    """Lower and upper end (percent) of the 95 % interval of `successes` out of `n`; not degenerate at 0 and `n`.

    Formula: E. B. Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference, JASA 22.
    """
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return [round(100 * max(0.0, centre - half), 2), round(100 * min(1.0, centre + half), 2)]


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability (0 to 1) that at least one of `k` samples, drawn from `n` of which `correct` are right, is right.

    Formula: the unbiased estimator 1 − C(n−c, k)/C(n, k) of Chen et al. (2021), arXiv:2107.03374.
    """
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def score(
    categories: Mapping[str, str],
    samples_per_question: int,
    outcomes: Iterable[Outcome],
    known: Sequence[str] = (),
) -> dict[str, Any]:
    """All figures of a run over the questions in `categories` (id to category), each asked so many times.

    `known` are the categories that the data should have: they are listed first, and others are counted.

    Shares are percent, counts are answers (questions times samples) unless named otherwise; what is undefined is None.
    `accuracy` divides by all that were asked, as the official code does: no answer is a wrong answer. An answer without
    a verdict is not a wrong one: `accuracy_bounds` has what the accuracy is if all of those are wrong, and if all are
    right, and where nothing was judged no share is given, of everything or of a category. `n_answered`,
    `n_truncated`, `n_failed` and `n_missing` (no record) add up to `n_total`; `n_unjudged` counts answers, truncated
    ones too, without a verdict. With several samples the intervals are over questions, the independent units: the half
    width as in `clustered_half_width`, Wilson's for `effective_questions`.
    The official calibration error depends on the order of `outcomes` where confidences tie; give them in the order of
    the data set or of the file they come from. `calibration_error_official_range` has what other orders would give.
    Where answers have scores, `scores` has each one's mean over the answers that have it; answers with nothing else are
    judged ones, and neither right nor wrong.
    Raises ValueError when one sample of a question comes twice.
    """
    tally = _Tally(categories, samples_per_question, known)
    for outcome in outcomes:
        tally.add(outcome)
    return tally.figures()


def without_calibration(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a task that asks for no confidence."""
    return {name: value for name, value in figures.items() if not re.match("calibration_|n_confidence_", name)}


@dataclass(slots=True)
class _Tally:
    """Counts outcomes as they pass; a few bytes for each, so that a run of any size fits."""

    categories: Mapping[str, str]
    samples: int
    known: Sequence[str] = ()
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("ok", "truncated", "failed"), 0))
    correct: dict[str, int] = field(default_factory=dict)  # question id to correct samples
    judged: dict[str, int] = field(default_factory=dict)  # category to verdicts
    seen: set[tuple[str, int]] = field(default_factory=set)
    confidences: list[int] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    n_scored: int = 0  # without a verdict
    n_unjudged: int = 0
    n_defaulted: int = 0
    n_unknown_id: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, outcome: Outcome) -> None:
        if outcome.id not in self.categories or not 0 <= outcome.sample < self.samples:
            self.n_unknown_id += 1
            return
        key = (outcome.id, outcome.sample)
        if key in self.seen:
            raise ValueError(f"sample {outcome.sample} of question {outcome.id!r} has two outcomes; expected one")
        self.seen.add(key)
        self.prompt_tokens += outcome.prompt_tokens
        self.completion_tokens += outcome.completion_tokens
        if outcome.status:
            self.statuses[outcome.status] += 1
        for name, value in (outcome.scores or {}).items():
            self.scores.setdefault(name, []).append(value)
        if outcome.verdict in ("yes", "no"):
            self._add_verdict(outcome)
        elif outcome.verdict == "scored":
            self.n_scored += 1
        elif outcome.status in ("ok", "truncated"):
            self.n_unjudged += 1

    def _add_verdict(self, outcome: Outcome) -> None:
        right = outcome.verdict == "yes"
        category = self.categories[outcome.id]
        self.judged[category] = self.judged.get(category, 0) + 1
        self.correct[outcome.id] = self.correct.get(outcome.id, 0) + right
        self.n_defaulted += outcome.confidence is None
        self.confidences.append(100 if outcome.confidence is None else outcome.confidence)
        self.verdicts.append(right)

    def figures(self) -> dict[str, Any]:
        n_questions, n_total = len(self.categories), len(self.categories) * self.samples
        n_judged, n_correct = len(self.verdicts), sum(self.verdicts)
        accuracy = _share(n_correct, n_total) if n_judged else None
        several = self.samples > 1
        return {
            "accuracy": accuracy,
            "accuracy_half_width": None if accuracy is None else self._half_width(accuracy),
            "accuracy_wilson": self._wilson(n_correct / n_total) if n_judged else None,
            "accuracy_bounds": [accuracy, _share(n_correct + self.n_unjudged, n_total)] if n_judged else None,
            "accuracy_judged": _share(n_correct, n_judged),
            "calibration_error_official": calibration_error_official(self.confidences, self.verdicts),
            "calibration_error_official_range": official_range(self.confidences, self.verdicts),
            "calibration_error": calibration_error(self.confidences, self.verdicts),
            "avg_at_k": accuracy if several else None,
            "pass_at_k": self._pass_at_k() if several and n_judged else None,
            "samples_per_question": self.samples,
            "n_questions": n_questions,
            "n_total": n_total,
            "n_answered": self.statuses["ok"],
            "n_truncated": self.statuses["truncated"],
            "n_failed": self.statuses["failed"],
            "n_missing": n_total - sum(self.statuses.values()),
            "n_judged": n_judged + self.n_scored,
            "n_unjudged": self.n_unjudged,
            "n_confidence_defaulted": self.n_defaulted,
            "n_confidence_out_of_range": sum(not 0 <= value <= 100 for value in self.confidences),
            "n_unknown_category": self._n_unknown_category(),
            "n_unknown_id": self.n_unknown_id,
            "tokens": {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens},
            "categories": self._categories(),
            **({"scores": {name: sum(of) / len(of) for name, of in self.scores.items()}} if self.scores else {}),
        }

    def _n_unknown_category(self) -> int:
        return sum(category not in self.known for category in self.categories.values()) if self.known else 0

    def _half_width(self, accuracy: float) -> float | None:
        if self.samples == 1:
            return wald_half_width(accuracy, len(self.categories))
        return clustered_half_width(self._means())

    def _wilson(self, right: float) -> list[float]:
        n = len(self.categories) if self.samples == 1 else effective_questions(self._means(), self.samples)
        return wilson_interval(right * n, n)

    def _means(self) -> list[float]:
        """Of each question; samples without a verdict count as wrong, as they do in the accuracy."""
        return [self.correct.get(identity, 0) / self.samples for identity in self.categories]

    def _pass_at_k(self) -> float:
        """Samples without a verdict count as wrong, as they do in the accuracy."""
        chances = (pass_at_k(self.samples, right, self.samples) for right in self.correct.values())
        return round(100 * sum(chances) / len(self.categories), 2)

    def _categories(self) -> dict[str, dict[str, Any]]:
        """The known categories in their order, then whatever else the data name."""
        asked: dict[str, int] = dict.fromkeys(self.known, 0)
        right: dict[str, int] = {}
        for identity, category in self.categories.items():
            asked[category] = asked.get(category, 0) + self.samples
            right[category] = right.get(category, 0) + self.correct.get(identity, 0)
        return {
            name: {
                "accuracy": _share(right.get(name, 0), n) if self.judged.get(name) else None,
                "n_total": n,
                "n_judged": self.judged.get(name, 0),
            }
            for name, n in asked.items()
        }


def _share(part: int, whole: int) -> float | None:
    """Percent with two decimals, by numpy's rounding (0.025 becomes 0.02) as in the official code."""
    return float(round(np.float64(100 * part / whole), 2)) if whole else None
