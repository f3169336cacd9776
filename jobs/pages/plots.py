"""Plots as inline SVG. Their axes bear measured values only: the largest, and the first and last on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT = 720, 110, 20  # pixels of the drawing, and of the margins that hold the labels
HEIGHT, BOTTOM = 280, 44
KEY = 22  # pixels of a line of the legend
BAR = 22
LETTERS = "abcde"  # styles of page.STYLE


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points (x, y). A `computed` one is not a measurement, and its style shows that."""

    name: str
    points: Sequence[tuple[float, float]]
    computed: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """A measured value on an axis, as it is written."""

    value: float
    text: str


def lines(series: Sequence[Series], x: Sequence[Tick], y: Tick, title: str, *, logarithmic: bool = False) -> str:
    """Lines over a common x axis. The y axis begins at nothing and ends at the tick `y`."""
    top = KEY * math.ceil(len(series) / 3) + 14
    place = _Place(
        [value for one in series for value, _ in one.points], max(y.value, *_values(series)), top, logarithmic
    )
    parts = [_key(number, one) for number, one in enumerate(series)]
    parts.append(f'<path class="axis" d="M{LEFT} {top}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts.append(_label(LEFT - 8, place.y(y.value) + 4, y.text, "end"))
    for tick in x:
        parts.append(_label(place.x(tick.value), HEIGHT - BOTTOM + 18, tick.text, "middle"))
    for number, one in enumerate(series):
        path = "L".join(f"{place.x(a):.1f} {place.y(b):.1f}" for a, b in one.points)
        parts.append(f'<path class="series {_style(number, one)}" d="M{path}"/>')
    return _svg(HEIGHT, title, parts)


def bars(rows: Sequence[tuple[str, float, str, bool]], title: str) -> str:
    """A bar a row: its name, its length, the length as text, and whether it is to stand out."""
    most = max(value for _, value, _, _ in rows)
    span, parts = WIDTH - LEFT - RIGHT - 190, []
    for number, (name, value, text, low) in enumerate(rows):
        y = number * BAR
        length = span * value / most
        parts.append(_label(LEFT + 82, y + 16, name, "end"))
        kind = "low" if low else "bar"
        parts.append(f'<rect class="{kind}" x="{LEFT + 90}" y="{y + 4}" width="{length:.1f}" height="{BAR - 8}"/>')
        parts.append(_label(LEFT + 98 + length, y + 16, text, "start"))
    return _svg(BAR * len(rows) + 4, title, parts)


class _Place:
    """From values to pixels."""

    def __init__(self, xs: Sequence[float], most: float, top: int, logarithmic: bool) -> None:
        self._scale = math.log2 if logarithmic else float
        self._low, self._high = self._scale(min(xs)), self._scale(max(xs))
        self._most, self._top = most or 1.0, top

    def x(self, value: float) -> float:
        share = (self._scale(value) - self._low) / (self._high - self._low or 1.0)
        return LEFT + 10 + share * (WIDTH - RIGHT - LEFT - 40)

    def y(self, value: float) -> float:
        bottom = HEIGHT - BOTTOM
        return bottom - value / self._most * (bottom - self._top)


def _values(series: Sequence[Series]) -> list[float]:
    return [value for one in series for _, value in one.points]


def _style(number: int, series: Series) -> str:
    return "computed" if series.computed else LETTERS[number % len(LETTERS)]


def _key(number: int, series: Series) -> str:
    x, y = LEFT + number % 3 * 190, number // 3 * KEY + 12
    line = f'<path class="series {_style(number, series)}" d="M{x} {y}h28"/>'
    return line + _label(x + 34, y + 4, series.name, "start")


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: int, title: str, parts: Sequence[str]) -> str:
    inner = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">\n{inner}\n</svg>'
