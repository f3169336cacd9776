"""Scores against figures from elsewhere and against a plain reimplementation of the official formula."""

import math
import random
import statistics
import tracemalloc
from functools import partial
from typing import Literal

import numpy as np
import pytest

from jobs.tasks import metrics
from jobs.tasks.calibration import calibration_error, calibration_error_official
from jobs.tasks.hle import CATEGORIES
from jobs.tasks.metrics import (
    Outcome,
    clustered_half_width,
    effective_questions,
    pass_at_k,
    wald_half_width,
    wilson_interval,
)

score = partial(metrics.score, known=CATEGORIES)


def plain_calibration(confidences: list[float], correct: list[bool], *, all_bins: bool) -> float:
    """The formula in plain Python, for data without ties: fraction, not rounded."""
    pairs = sorted(zip(confidences, correct, strict=True))
    n, bins = len(pairs), len(pairs) // 100
    total = 0.0
    for index in range(bins if all_bins else bins - 1):
        members = pairs[index * 100 : (index + 1) * 100] if index < bins - 1 else pairs[index * 100 :]
        gap = sum(c / 100 for c, _ in members) / len(members) - sum(ok for _, ok in members) / len(members)
        total += len(members) / n * gap * gap
    return math.sqrt(total)


def sample(n: int, seed: int, accuracy: float = 0.12) -> tuple[list[float], list[bool]]:
    """Overconfident answers, each confidence only once."""
    rng = random.Random(seed)
    return [60 + 40 * rng.random() for _ in range(n)], [rng.random() < accuracy for _ in range(n)]


@pytest.mark.parametrize("n", [200, 201, 250, 299, 300, 500, 1234, 2158, 2500])
def test_official_calibration_is_the_plain_formula(n: int) -> None:
    for seed in range(5):
        confidences, correct = sample(n, seed, accuracy=0.1 + seed / 6)
        official = calibration_error_official(confidences, correct)
        assert official == 100 * round(np.float64(plain_calibration(confidences, correct, all_bins=False)), 2)
        mine = calibration_error(confidences, correct)
        assert mine == pytest.approx(100 * plain_calibration(confidences, correct, all_bins=True), abs=0.00501)


def test_official_calibration_understates_small_runs() -> None:
    """About 0.454 of 0.804 at 250 answers and 0.756 of 0.776 at 2,500, when 12 % are right and all are sure."""
    for n, expected_share in ((250, 100 / 250), (500, 400 / 500), (2500, 2400 / 2500)):
        confidences, correct = sample(n, seed=n)
        confidences = [90 + value / 25 for value in confidences]
        official, every = calibration_error_official(confidences, correct), calibration_error(confidences, correct)
        assert official is not None and every is not None
        assert official / every == pytest.approx(math.sqrt(expected_share), abs=0.05)


def test_official_calibration_where_the_formula_gives_little() -> None:
    assert calibration_error_official([], []) is None
    assert calibration_error_official([90] * 99, [False] * 99) is None
    for n in (100, 150, 199):
        assert calibration_error_official([90] * n, [False] * n) == 0.0
    assert calibration_error_official([90] * 200, [False] * 200) == pytest.approx(100 * round(0.9 * math.sqrt(0.5), 2))


def test_official_calibration_shows_the_official_rounding() -> None:
    n = 200  # the first bin, half of the data, is off by 0.82: sqrt(0.5)·0.82 = 0.5798
    assert calibration_error_official([82] * n, [False] * n) == 57.99999999999999


def test_official_calibration_breaks_ties_as_numpy_does() -> None:
    rng = random.Random(3)
    confidences = [rng.choice([60, 70, 80, 90, 100]) for _ in range(777)]
    correct = [rng.random() < 0.3 for _ in range(777)]
    order = np.argsort((np.array(confidences) / 100).astype(object))  # sorted without vector instructions
    total = 0.0
    for start, end in [(0, 100), (100, 200), (200, 300), (300, 400), (400, 500), (500, 600)]:
        members = order[start:end]
        gap = sum(confidences[i] / 100 for i in members) / 100 - sum(correct[i] for i in members) / 100
        total += 100 / 777 * gap * gap
    assert calibration_error_official(confidences, correct) == pytest.approx(100 * round(math.sqrt(total), 2))


def test_official_calibration_takes_raw_confidences_and_ours_clips() -> None:
    confidences = [500] * 200
    assert calibration_error_official(confidences, [True] * 200) == pytest.approx(100 * round(4 * math.sqrt(0.5), 2))
    assert calibration_error(confidences, [True] * 200) == 0.0


def test_calibration_of_few_answers() -> None:
    assert calibration_error([], []) is None
    assert calibration_error([80], [True]) == 20.0
    assert calibration_error([80] * 10, [True] * 8 + [False] * 2) == 0.0
    assert calibration_error([100] * 150, [False] * 150) == 100.0


def test_calibration_does_not_depend_on_numpys_sort() -> None:
    confidences = [70] * 250
    correct = [True] * 100 + [False] * 150
    expected = 100 * math.sqrt(100 / 250 * 0.3**2 + 150 / 250 * 0.7**2)
    assert calibration_error(confidences, correct) == pytest.approx(expected, abs=0.00501)


@pytest.mark.parametrize(
    ("accuracy", "n", "half_width"), [(10, 2158, 1.27), (10, 2500, 1.18), (0, 2500, 0), (100, 50, 0), (50, 1, 98)]
)
def test_wald(accuracy: float, n: int, half_width: float) -> None:
    assert wald_half_width(accuracy, n) == half_width


@pytest.mark.parametrize(
    ("successes", "n", "interval"),
    [
        (0, 10, [0, 27.75]),  # these are in any table of Wilson's interval
        (10, 10, [72.25, 100]),
        (5, 10, [23.66, 76.34]),
        (1, 10, [1.79, 40.42]),
        (81, 263, [25.53, 36.62]),  # Newcombe (1998), table I
        (15, 148, [6.24, 16.05]),
        (0, 20, [0, 16.11]),
        (1, 29, [0.61, 17.18]),
    ],
)
def test_wilson(successes: int, n: int, interval: list[float]) -> None:
    assert wilson_interval(successes, n) == pytest.approx(interval, abs=0.0101)


def test_pass_at_k() -> None:
    assert pass_at_k(5, 0, 3) == 0
    assert pass_at_k(5, 5, 1) == 1
    assert pass_at_k(4, 1, 1) == pytest.approx(0.25)
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(4, 3, 2) == 1


MATH = {f"q{number}": "Math" for number in range(4)}


def test_score_counts_every_state_once() -> None:
    figures = score(
        MATH | {"q4": "Physics", "q5": "Astrology", "q6": "Physics", "q7": "Physics"},
        1,
        [
            Outcome("q0", 0, "ok", "yes", 90, 10, 5),
            Outcome("q1", 0, "ok", "no", None, 10, 5),
            Outcome("q2", 0, "truncated", "no", 120, 10, 5),
            Outcome("q3", 0, "truncated", None, None, 10, 5),
            Outcome("q4", 0, "ok", "unjudged", 50),
            Outcome("q5", 0, "ok", "yes", 100),
            Outcome("q6", 0, "failed", None, None),
            Outcome("elsewhere", 0, "ok", "yes", 100),
            Outcome("q0", 1, "ok", "yes", 100),
        ],
    )
    counts = {name: value for name, value in figures.items() if name.startswith("n_")}
    assert counts == {
        "n_questions": 8,
        "n_total": 8,
        "n_answered": 4,
        "n_truncated": 2,
        "n_failed": 1,
        "n_missing": 1,
        "n_judged": 4,
        "n_unjudged": 2,
        "n_confidence_defaulted": 1,
        "n_confidence_out_of_range": 1,
        "n_unknown_category": 1,
        "n_unknown_id": 2,
    }
    assert figures["accuracy"] == 25.0
    assert figures["accuracy_judged"] == 50.0
    assert figures["accuracy_half_width"] == wald_half_width(25, 8)
    assert figures["accuracy_wilson"] == wilson_interval(2, 8)
    assert figures["calibration_error_official"] is None
    assert figures["calibration_error"] == pytest.approx(100 * abs(0.975 - 0.5))
    assert figures["tokens"] == {"prompt_tokens": 40, "completion_tokens": 20}
    assert list(figures["categories"]) == [*CATEGORIES, "Astrology"]
    assert figures["categories"]["Math"] == {"accuracy": 25.0, "n_total": 4, "n_judged": 3}
    assert figures["categories"]["Chemistry"] == {"accuracy": None, "n_total": 0, "n_judged": 0}
    assert figures["categories"]["Astrology"] == {"accuracy": 100.0, "n_total": 1, "n_judged": 1}
    assert figures["avg_at_k"] is None and figures["pass_at_k"] is None


def test_score_of_nothing() -> None:
    figures = score({}, 1, [])
    undefined = ("accuracy", "accuracy_half_width", "accuracy_wilson", "accuracy_judged", "calibration_error")
    assert [figures[name] for name in undefined] == [None] * 5
    figures = score(MATH, 1, [])
    assert [figures[name] for name in (*undefined, "accuracy_bounds")] == [None] * 6, "nothing was judged"
    assert figures["n_missing"] == 4


def test_score_of_all_right() -> None:
    figures = score(MATH, 1, [Outcome(name, 0, "ok", "yes", 100) for name in MATH])
    assert figures["accuracy"] == 100.0 and figures["accuracy_half_width"] == 0.0
    assert figures["accuracy_wilson"][0] < 60 and figures["accuracy_wilson"][1] == 100


def test_score_rounds_as_the_official_code() -> None:
    categories = {str(number): "Math" for number in range(4000)}
    figures = score(categories, 1, [Outcome("7", 0, "ok", "yes", 100)])
    assert figures["accuracy"] == 0.02, "1 of 4,000 is 0.025 %, which numpy rounds to even and Python to 0.03"


def test_score_of_several_samples() -> None:
    outcomes = [Outcome(name, sample, "ok", "yes" if sample < right else "no", 50)
                for name, right in (("q0", 2), ("q1", 1), ("q2", 0)) for sample in range(2)]  # fmt: skip
    figures = score(MATH, 2, outcomes)
    assert figures["accuracy"] == figures["avg_at_k"] == 37.5
    assert figures["pass_at_k"] == 50.0
    means = [1, 0.5, 0, 0]  # of the questions, which are the unit, not their samples
    assert figures["accuracy_half_width"] == round(100 * 1.96 * statistics.stdev(means) / math.sqrt(4), 2)
    units = 0.375 * 0.625 / (statistics.variance(means) / 4)
    assert figures["accuracy_wilson"] == wilson_interval(0.375 * max(4, units), max(4, units))
    assert (figures["n_questions"], figures["n_total"], figures["n_missing"]) == (4, 8, 2)
    assert figures["categories"]["Math"] == {"accuracy": 37.5, "n_total": 8, "n_judged": 6}


def test_score_refuses_two_outcomes_of_one_sample() -> None:
    with pytest.raises(ValueError, match="sample 0 of question 'q1' has two outcomes"):
        score(MATH, 1, [Outcome("q1", 0, "ok", "yes", 1)] * 2)


def test_score_of_many_is_small() -> None:
    categories = {str(number): "Math" for number in range(20_000)}
    tracemalloc.start()
    figures = score(categories, 1, (Outcome(name, 0, "ok", "no", 10, 1, 1) for name in categories))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert figures["n_judged"] == 20_000
    assert peak < 20_000 * 400


@pytest.mark.parametrize(
    ("verdicts", "accuracy", "bounds"),
    [
        (["unjudged"] * 4, None, None),
        ([None] * 4, None, None),
        (["yes", "unjudged", "unjudged", "no"], 25.0, [25.0, 75.0]),
        (["yes", "no", "no", "no"], 25.0, [25.0, 25.0]),
        (["no", "unjudged", "unjudged", "unjudged"], 0.0, [0.0, 75.0]),
    ],
)
def test_the_unjudged_are_not_wrong(
    verdicts: list[Literal["yes", "no", "unjudged"] | None], accuracy: float | None, bounds: list[float] | None
) -> None:
    outcomes = [Outcome(name, 0, "ok", verdict, 90) for name, verdict in zip(MATH, verdicts, strict=True)]
    figures = score(MATH, 1, outcomes)
    assert (figures["accuracy"], figures["accuracy_bounds"]) == (accuracy, bounds)
    assert (figures["accuracy_half_width"] is None) == (figures["accuracy_wilson"] is None) == (accuracy is None)
    assert figures["categories"]["Math"]["accuracy"] == accuracy
    assert figures["n_unjudged"] == sum(verdict in (None, "unjudged") for verdict in verdicts)


@pytest.mark.parametrize(("n", "k"), [(2158, 4), (198, 8), (30, 16)])
def test_intervals_of_several_samples_are_those_of_the_questions_means(n: int, k: int) -> None:
    """Against the clustered standard error written out as in the paper, over all pairs of one question's samples."""
    rng = random.Random(n)
    grid = [[rng.random() < chance for _ in range(k)] for chance in (rng.betavariate(0.3, 1.2) for _ in range(n))]
    mean = sum(map(sum, grid)) / (n * k)
    pairs = sum(sum(value - mean for value in row) ** 2 for row in grid)
    clustered = 100 * 1.96 * math.sqrt(pairs) / (n * k)
    outcomes = [
        Outcome(str(place), sample, "ok", "yes" if right else "no", 50)
        for place, row in enumerate(grid)
        for sample, right in enumerate(row)
    ]
    figures = score({str(place): "Math" for place in range(n)}, k, outcomes)
    assert clustered - 0.005 <= figures["accuracy_half_width"] <= 1.05 * clustered
    low, high = figures["accuracy_wilson"]
    assert (high - low) / 2 == pytest.approx(clustered, rel=0.05)
    assert figures["accuracy_half_width"] < 0.8 * wald_half_width(figures["accuracy"], n)


def test_effective_questions_lie_between_questions_and_answers() -> None:
    assert effective_questions([1, 1, 1], 4) == 3, "of a variance that nothing is known of"
    assert effective_questions([0.5, 0.5, 0.5], 4) == 12
    assert effective_questions([1, 0, 1, 0], 4) == 4
    assert effective_questions([0.5], 2) == 1
    assert clustered_half_width([0.5]) is None and clustered_half_width([0.5, 0.5]) == 0
