"""The official calibration error is one figure on every CPU, and its spread over the orders of ties is exact."""

import itertools
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from jobs.tasks import calibration
from jobs.tasks.calibration import calibration_error_official, official_range

# Figures and orders of many files full of ties; for processes of its own: numpy reads its variable at the start.
PROGRAM = """
import hashlib, json, random
import numpy as np
from jobs.tasks.calibration import calibration_error, calibration_error_official, official_range
rng, figures, order = random.Random(7), [], hashlib.sha256()
for size in [200, 201, 263, 333, 500, 1106, 2158, 2500, 9000] * 4:
    stated = rng.choice([[50, 60, 70, 80, 85, 90, 95, 99, 100], range(101), [90, 100], [-5, 0, 100, 150, 2**40]])
    confidences = [rng.choice(stated) for _ in range(size)]
    correct = [rng.random() < value / 300 for value in confidences]
    figures.append([f(confidences, correct) for f in (calibration_error_official, official_range, calibration_error)])
    order.update(np.argsort(np.array(confidences) / 100).astype(np.int64).tobytes())
print(json.dumps({"figures": figures, "numpy": order.hexdigest()}))
"""
NO_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"


def figures_on(disabled: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        env=os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_same_digits_on_every_cpu() -> None:
    every, no_avx512, none = (figures_on(disabled) for disabled in ("", NO_AVX512, f"{NO_AVX512} AVX2 FMA3"))
    assert every["figures"] == no_avx512["figures"] == none["figures"]
    if every["numpy"] == none["numpy"]:
        pytest.skip("this CPU sorts without vector instructions, so that nothing was told apart")


def test_ties_are_in_the_order_of_numpys_plain_introsort() -> None:
    """That order written out: median of three, insertion sort up to 16, as published figures rest on it."""
    for seed in range(60):
        rng = random.Random(seed)
        values = [rng.choice(([80, 90, 100], range(101))[seed % 2]) for _ in range(rng.randint(100, 3000))]
        order = np.argsort((np.array(values, dtype=float) / 100).astype(np.longdouble), kind="quicksort").tolist()
        assert order == introsort(values)


def introsort(values: list[int]) -> list[int]:
    order, low, high = list(range(len(values))), 0, len(values) - 1
    pending: list[tuple[int, int]] = []
    while True:
        while high - low > 15:
            middle = low + (high - low) // 2
            for a, b in ((middle, low), (high, middle), (middle, low)):
                if values[order[a]] < values[order[b]]:
                    order[a], order[b] = order[b], order[a]
            pivot, left, right = values[order[middle]], low, high - 1
            order[middle], order[right] = order[right], order[middle]
            while True:
                left += 1
                while values[order[left]] < pivot:
                    left += 1
                right -= 1
                while pivot < values[order[right]]:
                    right -= 1
                if left >= right:
                    break
                order[left], order[right] = order[right], order[left]
            order[left], order[high - 1] = order[high - 1], order[left]
            if left - low < high - left:
                pending.append((left + 1, high))
                high = left - 1
            else:
                pending.append((low, left - 1))
                low = left + 1
        for place in range(low + 1, high + 1):
            moved, at = order[place], place
            while at > low and values[moved] < values[order[at - 1]]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = moved
        if not pending:
            return order
        low, high = pending.pop()


def every_order(confidences: list[int], correct: list[bool], size: int) -> tuple[float, float]:
    """The least and most of the formula, tried out over all orders of ties."""
    ties: dict[int, list[bool]] = {}
    for confidence, right in zip(confidences, correct, strict=True):
        ties.setdefault(confidence, []).append(right)
    stated, found = sorted(confidences), []
    for orders in itertools.product(*(set(itertools.permutations(ties[value])) for value in sorted(ties))):
        ordered = list(itertools.chain(*orders))
        total = 0.0
        for start in range(0, (len(stated) // size - 1) * size, size):
            gap = (sum(stated[start : start + size]) / 100 - sum(ordered[start : start + size])) / size
            total += size / len(stated) * gap**2
        found.append(math.sqrt(total))
    return min(found), max(found)


def test_the_spread_is_that_of_all_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    for _ in range(500):
        size = rng.choice([2, 3, 4])
        monkeypatch.setattr(calibration, "BIN_SIZE", size)
        confidences = [rng.choice([10, 40, 80, 100][: rng.randint(1, 4)]) for _ in range(rng.randint(size, 9))]
        correct = [rng.random() < 0.5 for _ in confidences]
        least, most = every_order(confidences, correct, size)
        expected = pytest.approx([100 * round(least, 2), 100 * round(most, 2)], abs=1.001)  # a half may round both ways
        assert official_range(confidences, correct) == expected
        stated = np.array(confidences) / 100
        for pick, value in ((np.minimum, least), (np.maximum, most)):
            assert math.sqrt(calibration._extreme(stated, np.array(correct), pick)) == pytest.approx(value)


def test_the_spread_holds_the_figure_and_is_none_without_ties() -> None:
    rng = random.Random(2)
    confidences = [rng.choice([70, 80, 90, 95, 100]) for _ in range(2158)]
    correct = [rng.random() < 0.1 for _ in confidences]
    spread, figure = official_range(confidences, correct), calibration_error_official(confidences, correct)
    assert spread is not None and figure is not None and spread[0] <= figure <= spread[1]
    assert spread[0] < spread[1]
    apart = [rng.random() * 100 for _ in range(500)]
    alone = calibration_error_official(apart, correct[:500])
    assert official_range(apart, correct[:500]) == [alone, alone]
    assert official_range([90] * 99, [True] * 99) is None
    assert official_range([90] * 199, [True] * 199) == [0.0, 0.0]
