"""Scores of an exam: accuracy with its intervals, calibration, coverage. All figures are percent.

What HLE's official code computes is computed here in its own order of operations, numpy's rounding included, so that
the figures are the same to the last bit.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jobs.tasks.hle import CATEGORIES

BIN_SIZE = 100  # answers in one bin of the calibration error
Z_95 = 1.96  # the official code's quantile of the normal distribution for 95 %


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one sample of one question. `None` stands for a record that does not exist."""

    id: str
    sample: int
    status: Literal["ok", "truncated", "failed"] | None
    verdict: Literal["yes", "no", "unjudged"] | None
    confidence: int | None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def wald_half_width(accuracy: float, n: int) -> float:
    """Half the width of the 95 % interval around `accuracy` (percent, rounded before) of `n` questions; 0 at 0 and 100.

    Formula: Wald's normal approximation, 1.96·sqrt(p(100−p)/n), as in HLE's official code.
    """
    return round(Z_95 * math.sqrt(accuracy * (100 - accuracy) / n), 2)


def wilson_interval(successes: float, n: int) -> list[float]:
    """Lower and upper end (percent) of the 95 % interval of `successes` out of `n`; not degenerate at 0 and `n`.

    Formula: E. B. Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference, JASA 22.
    """
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return [round(100 * max(0.0, centre - half), 2), round(100 * min(1.0, centre + half), 2)]


def calibration_error_official(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """HLE's official calibration error (percent) of raw `confidences` (percent), bit by bit.

    Root mean square gap between confidence and accuracy over bins of 100 answers, after hendrycks/outlier-exposure's
    calibration_tools.py. The last bin takes the rest and is then left out of the sum: hence 0.0 for 100 to 199 answers,
    and None below 100, where the official code fails. Answers of equal confidence fall into bins in the order that
    numpy's default, unstable sort leaves them in.
    """
    if len(confidences) < BIN_SIZE:
        return None
    stated = np.array(confidences, dtype=float) / 100
    return float(100 * round(_binned_error(stated, np.array(correct), np.argsort(stated), skip_last=True), 2))


def calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """Calibration error (percent) as above, but over all bins, with a stable sort and confidences clipped to 0–100.

    Fewer than 200 answers make a single bin. None without any answer.
    """
    if not confidences:
        return None
    stated = np.clip(np.array(confidences, dtype=float), 0, 100) / 100
    order = np.argsort(stated, kind="stable")
    return round(100 * float(_binned_error(stated, np.array(correct), order, skip_last=False)), 2)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability (0 to 1) that at least one of `k` samples, drawn from `n` of which `correct` are right, is right.

    Formula: the unbiased estimator 1 − C(n−c, k)/C(n, k) of Chen et al. (2021), arXiv:2107.03374.
    """
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def score(categories: Mapping[str, str], samples_per_question: int, outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """All figures of a run over the questions in `categories` (id to category), each asked so many times.

    Shares are percent, counts are answers (questions times samples) unless named otherwise; what is undefined is None.
    `accuracy` divides by all that were asked, as the official code does: no answer is a wrong answer. `n_answered`,
    `n_truncated`, `n_failed` and `n_missing` (no record) add up to `n_total`; `n_unjudged` counts answers, truncated
    ones too, without a verdict. With several samples the intervals are over questions, the independent units.
    The official calibration error depends on the order of `outcomes` where confidences tie; give them in the order of
    the data set or of the file they come from. Raises ValueError when one sample of a question comes twice.
    """
    tally = _Tally(categories, samples_per_question)
    for outcome in outcomes:
        tally.add(outcome)
    return tally.figures()


@dataclass(slots=True)
class _Tally:
    """Counts outcomes as they pass; a few bytes for each, so that a run of any size fits."""

    categories: Mapping[str, str]
    samples: int
    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("ok", "truncated", "failed"), 0))
    correct: dict[str, int] = field(default_factory=dict)  # question id to correct samples
    judged: dict[str, int] = field(default_factory=dict)  # category to verdicts
    seen: set[tuple[str, int]] = field(default_factory=set)
    confidences: list[int] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)
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
        if outcome.verdict in ("yes", "no"):
            self._add_verdict(outcome)
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
        accuracy = _share(n_correct, n_total)
        several = self.samples > 1
        return {
            "accuracy": accuracy,
            "accuracy_half_width": None if accuracy is None else wald_half_width(accuracy, n_questions),
            "accuracy_wilson": wilson_interval(n_correct / self.samples, n_questions) if n_questions else None,
            "accuracy_judged": _share(n_correct, n_judged),
            "calibration_error_official": calibration_error_official(self.confidences, self.verdicts),
            "calibration_error": calibration_error(self.confidences, self.verdicts),
            "avg_at_k": accuracy if several else None,
            "pass_at_k": self._pass_at_k() if several and n_questions else None,
            "samples_per_question": self.samples,
            "n_questions": n_questions,
            "n_total": n_total,
            "n_answered": self.statuses["ok"],
            "n_truncated": self.statuses["truncated"],
            "n_failed": self.statuses["failed"],
            "n_missing": n_total - sum(self.statuses.values()),
            "n_judged": n_judged,
            "n_unjudged": self.n_unjudged,
            "n_confidence_defaulted": self.n_defaulted,
            "n_confidence_out_of_range": sum(not 0 <= value <= 100 for value in self.confidences),
            "n_unknown_category": sum(category not in CATEGORIES for category in self.categories.values()),
            "n_unknown_id": self.n_unknown_id,
            "tokens": {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens},
            "categories": self._categories(),
        }

    def _pass_at_k(self) -> float:
        """Samples without a verdict count as wrong, as they do in the accuracy."""
        chances = (pass_at_k(self.samples, right, self.samples) for right in self.correct.values())
        return round(100 * sum(chances) / len(self.categories), 2)

    def _categories(self) -> dict[str, dict[str, Any]]:
        """The eight categories in their order, then whatever else the data name."""
        asked: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
        right: dict[str, int] = {}
        for identity, category in self.categories.items():
            asked[category] = asked.get(category, 0) + self.samples
            right[category] = right.get(category, 0) + self.correct.get(identity, 0)
        return {
            name: {"accuracy": _share(right.get(name, 0), n), "n_total": n, "n_judged": self.judged.get(name, 0)}
            for name, n in asked.items()
        }


def _share(part: int, whole: int) -> float | None:
    """Percent with two decimals, by numpy's rounding (0.025 becomes 0.02) as in the official code."""
    return float(round(np.float64(100 * part / whole), 2)) if whole else None


def _binned_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], order: NDArray[np.intp], *, skip_last: bool
) -> np.float64:
    """sqrt(Σ |bin|/N · (mean confidence − accuracy)²) over bins of BIN_SIZE in `order`; the last takes the rest."""
    confidence, correct = confidence[order], correct[order]
    edges = [BIN_SIZE * place for place in range(max(1, len(confidence) // BIN_SIZE))] + [len(confidence)]
    total = np.float64(0)
    for start, end in itertools.pairwise(edges[:-1] if skip_last else edges):
        gap = np.abs(np.nanmean(confidence[start:end]) - np.nanmean(correct[start:end]))
        total += (end - start) / len(confidence) * np.square(gap)
    return np.sqrt(total)
