"""Axes of a panel: round ticks, their labels, and positions of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prefloop.report.chart import ANY, Range
from prefloop.report.marks import Real

TICKS = 30  # number of characters of tick labels that fit below a panel
POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """Ticks and labels between two ends."""

    ticks: tuple[Real, ...]
    labels: tuple[str, ...]
    low: Real
    high: Real
    log: bool = False

    def share(self, value: Real) -> float:
        """Position of a value along the axis, from 0 to 1."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = (math.log10(x) for x in (low, high, value))
        return (at - low) / (high - low)


def ticks(low: Real, high: Real, count: int = 5) -> list[float]:
    """Round numbers that cover the interval, up to a tenth of a step at either end."""
    if high <= low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999) * power
    first, last = math.floor(low / step + 0.1), math.ceil(high / step - 0.1)
    return [float(i * step) for i in range(first, last + 1)]


def tick_label(value: Real, of: Sequence[Real]) -> str:
    """A tick with as many decimals as its axis needs."""
    step = of[1] - of[0] if len(of) > 1 else abs(value) or 1.0
    if max(abs(t) for t in of) >= 1e5 or step < 1e-4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−") if value else "0"
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    if round(step, places) != round(step, places + 1):  # a step of 2.5
        places += 1
    return f"{value:.{places}f}".replace("-", "−") if abs(value) > step / 1e6 else "0"


def upright(values: Sequence[Real], range: Range = ANY, *, mirrored: bool = False) -> Axis:
    """The y axis: from tick to tick, within the range of the quantity."""
    low, high = min(values), max(values)
    known = [t for t in ticks(low, high) if _within(t, range)]
    texts = tuple(tick_label(abs(t) if mirrored else t, known) for t in known)
    return Axis(tuple(known), texts, min(low, known[0]), max(high, known[-1]))


def along(values: Sequence[Real], *, log: bool = False) -> Axis:
    """The x axis: from the first to the last value with a small margin, and ticks inside it."""
    low, high = min(values), max(values)
    if log:
        known = few(sorted(set(values)))
        room = (high / low) ** 0.03 if high > low else 2.0
        return Axis(tuple(known), tuple(power(t) for t in known), low / room, high * room, log=True)
    room = 0.02 * (high - low) or abs(low) * 0.1 or 1.0
    low, high = low - room, high + room
    known = [t for t in ticks(low, high, 4) if low <= t <= high]
    return Axis(tuple(known), tuple(tick_label(t, known) for t in known), low, high)


def named(names: Sequence[str]) -> Axis:
    """Names at 0, 1, …."""
    return Axis(tuple(map(float, range(len(names)))), tuple(names), -0.6, len(names) - 0.4)


def rows(names: Sequence[str]) -> Axis:
    """Names at 0, 1, … from above."""
    return Axis(tuple(map(float, range(len(names)))), tuple(names), len(names) - 0.4, -0.6)


def few(values: Sequence[Real]) -> list[Real]:
    """The values themselves if they fit below a panel, otherwise 1, 2, 5, … over a short range, or powers of ten."""
    if sum(len(f"{x:g}") + 2 for x in values) <= TICKS:
        return list(values)
    first, last = math.floor(math.log10(values[0])), math.ceil(math.log10(values[-1]))
    steps = (1, 2, 5) if values[-1] / values[0] < 100 else (1,)
    apart = range(first, last + 1, 1 + (last - first) // 7)
    return [step * 10.0**at for at in apart for step in steps if values[0] <= step * 10.0**at <= values[-1]]


def power(x: Real) -> str:
    """Label of a logarithmic tick: plain up to four zeros, otherwise a power of ten."""
    at = round(math.log10(x))
    plain = 1e-3 <= x < 1e5 or not math.isclose(x, 10.0**at)
    return f"{x:g}" if plain else "10" + str(at).translate(POWERS)


def _within(value: Real, range: Range) -> bool:
    low, high = range
    return (low is None or value >= low - 1e-12) and (high is None or value <= high + 1e-12)
