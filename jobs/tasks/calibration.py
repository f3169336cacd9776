"""How far stated confidences are from what came true: HLE's official figure, its spread, and ours. All in percent.

The official code's order of operations is kept, numpy's rounding included, so that the figures are the same to the last
bit.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

BIN_SIZE = 100  # answers in one bin

Floats = NDArray[np.float64]


def calibration_error_official(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """HLE's official calibration error (percent) of raw `confidences` (percent), bit by bit, the same on every machine.

    Root mean square gap between confidence and accuracy over bins of 100 answers, after hendrycks/outlier-exposure's
    calibration_tools.py. The last bin takes the rest and is then left out of the sum: hence 0.0 for 100 to 199 answers,
    and None below 100, where the official code fails.

    Answers of equal confidence fall into bins in the order in which numpy's default sort, which is not stable, leaves
    them. That order depends on the CPU; here it is the one of numpy's plain introsort, without vector instructions,
    which reproduces published figures. `official_range` says what other orders would give.
    """
    if len(confidences) < BIN_SIZE:
        return None
    stated = np.array(confidences, dtype=float) / 100
    # There are no vector instructions for long doubles: they are sorted by the same plain code on every CPU.
    order = np.argsort(stated.astype(np.longdouble), kind="quicksort")
    return _rounded(_binned_error(stated, np.array(correct), order, skip_last=True))


def official_range(confidences: Sequence[float], correct: Sequence[bool]) -> list[float] | None:
    """The least and the most (percent) that the official formula gives over all orders of equal confidences; exact.

    A bin's mean confidence does not depend on the order, only how many of a tie's right answers fall into which bin
    does. Ties are gone through by rising confidence, keeping for each number of right answers in the bin that is being
    filled the best sum of all bins before it. None where the official figure is.
    """
    if len(confidences) < BIN_SIZE:
        return None
    stated, right = np.array(confidences, dtype=float) / 100, np.array(correct, dtype=bool)
    given = calibration_error_official(confidences, correct)
    assert given is not None
    ends = [_rounded(np.sqrt(_extreme(stated, right, pick))) for pick in (np.minimum, np.maximum)]
    return [min(ends[0], given), max(ends[1], given)]  # the last bit of a sum may round to the other side


def calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """Calibration error (percent) as above, but over all bins, with a stable sort and confidences clipped to 0–100.

    Fewer than 200 answers make a single bin. None without any answer.
    """
    if not confidences:
        return None
    stated = np.clip(np.array(confidences, dtype=float), 0, 100) / 100
    order = np.argsort(stated, kind="stable")
    return round(100 * float(_binned_error(stated, np.array(correct), order, skip_last=False)), 2)


def _rounded(error: np.float64) -> float:
    """As the official code rounds and shows it: 0.58 becomes 57.99999999999999."""
    return float(100 * round(error, 2))


def _binned_error(
    confidence: Floats, correct: NDArray[np.bool_], order: NDArray[np.intp], *, skip_last: bool
) -> np.float64:
    """sqrt(Σ |bin|/N · (mean confidence − accuracy)²) over bins of BIN_SIZE in `order`; the last takes the rest."""
    confidence, correct = confidence[order], correct[order]
    edges = [BIN_SIZE * place for place in range(max(1, len(confidence) // BIN_SIZE))] + [len(confidence)]
    total = np.float64(0)
    for start, end in itertools.pairwise(edges[:-1] if skip_last else edges):
        gap = np.abs(np.nanmean(confidence[start:end]) - np.nanmean(correct[start:end]))
        total += (end - start) / len(confidence) * np.square(gap)
    return np.sqrt(total)


def _extreme(stated: Floats, right: NDArray[np.bool_], pick: np.ufunc) -> np.float64:
    """The least or most sum of the bins that count, as `pick` is np.minimum or np.maximum, over all orders of ties."""
    ordered = np.sort(stated)
    n_bins, worst = len(stated) // BIN_SIZE - 1, np.inf if pick is np.minimum else -np.inf
    costs = [_costs(ordered[BIN_SIZE * place : BIN_SIZE * (place + 1)], len(stated)) for place in range(n_bins)]
    best, place = np.array([0.0] + [worst] * BIN_SIZE), 0  # for 0 … BIN_SIZE right answers in the bin being filled
    for size, n_right in _ties(stated, right):
        number, filled = divmod(place, BIN_SIZE)
        place += size
        if number >= n_bins:
            break
        if filled + size < BIN_SIZE:
            best = np.concatenate((np.full(n_right, worst), best))[: BIN_SIZE + 1]
            continue
        # The tie closes this bin, fills `whole` bins alone, and opens the next one with what is left.
        first, (whole, rest) = BIN_SIZE - filled, divmod(size - (BIN_SIZE - filled), BIN_SIZE)
        if number + 1 + whole > n_bins:  # the last bin does not count, however many the tie brings there
            whole = n_bins - number - 1
            rest = size - first - BIN_SIZE * whole
        closed = np.array([_closed(best, taken, costs[number], pick) for taken in range(min(first, n_right) + 1)])
        alone = _alone(whole, costs[number + 1] if whole else None, pick)
        best = np.full(max(BIN_SIZE, rest) + 1, worst)
        for carried in range(min(rest, n_right) + 1):
            inside = n_right - carried - np.arange(len(closed))  # right answers in the whole bins
            fits = (inside >= 0) & (inside < len(alone))
            if fits.any():
                best[carried] = pick.reduce(closed[fits] + alone[inside[fits]])
    return np.float64(pick.reduce(best))


def _ties(stated: Floats, right: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Size and number of right answers of each group of equal confidences, by rising confidence."""
    _, group, sizes = np.unique(stated, return_inverse=True, return_counts=True)
    yield from zip(sizes.tolist(), np.bincount(group, weights=right).astype(int).tolist(), strict=True)


def _costs(members: Floats, n: int) -> Floats:
    """What a bin of these confidences adds to the sum for 0 … BIN_SIZE right answers in it."""
    return BIN_SIZE / n * np.square(np.nanmean(members) - np.arange(BIN_SIZE + 1) / BIN_SIZE)


def _closed(best: Floats, taken: int, cost: Floats, pick: np.ufunc) -> np.float64:
    """The best sum once a bin is closed by `taken` more right answers."""
    return np.float64(pick.reduce(best[: len(cost) - taken] + cost[taken:]))


def _alone(whole: int, cost: Floats | None, pick: np.ufunc) -> Floats:
    """The best sum of `whole` bins that one tie fills, for each number of right answers in all of them.

    A bin's cost is convex in its right answers: the least is to spread them evenly, the most to fill bin by bin.
    """
    if cost is None:
        return np.zeros(1)
    total = np.arange(whole * BIN_SIZE + 1)
    if pick is np.minimum:
        each, more = np.divmod(total, whole)
        return (whole - more) * cost[each] + more * cost[np.minimum(each + 1, BIN_SIZE)]
    full, part = np.divmod(total, BIN_SIZE)
    return full * cost[BIN_SIZE] + np.where(full < whole, cost[part], 0) + np.maximum(whole - full - 1, 0) * cost[0]
