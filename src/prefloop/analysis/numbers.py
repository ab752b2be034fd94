"""Number formatting for tables, pages and the screen. Imports nothing heavy.

Minus signs are typographic (U+2212); `–` replaces missing numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Real = float | int
NONE = "–"
DECIMALS = 7  # maximum number of decimals
TINY = 1e-3  # smaller numbers are printed in scientific notation


def minus(text: str) -> str:
    """With typographic minus signs and exponents without leading zeros: `1e-05` becomes `1e−5`."""
    return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e").replace("-", "−")


def number(x: Real | None, digits: int = 4) -> str:
    """Rounded to significant digits, with trailing zeros: `0.5000`; whole numbers in full: `12,345`."""
    if x is None or not math.isfinite(x):
        return NONE
    if float(x).is_integer() and abs(x) < 1e15:
        return minus(f"{int(x):,}")
    if TINY <= abs(x) < 1e6:
        return minus(f"{x:.{max(0, digits - 1 - math.floor(math.log10(abs(x))))}f}")
    return minus(f"{x:.{digits - 1}e}")


def compact(x: Real | None, digits: int = 3) -> str:
    """Rounded to significant digits, without trailing zeros: `0.5`, `1,234`, `3e−5`."""
    if x is None or math.isnan(x):
        return NONE
    if 10 ** (digits - 1) <= abs(x) < 1e6:
        return minus(f"{x:,.0f}")
    return minus(f"{x:.{digits}g}")


def fixed(x: Real | None, places: int = 3, *, sign: bool = False) -> str:
    """Rounded to decimals, optionally with a plus sign."""
    if x is None or not math.isfinite(x):
        return NONE
    return minus(f"{x:+.{places}f}" if sign else f"{x:.{places}f}")


def share(x: Real | None, digits: int = 3) -> str:
    """A share in percent: `12.5 %`."""
    return NONE if x is None or math.isnan(x) else f"{minus(f'{100 * x:.{digits}g}')}\u00a0%"


def plus_minus(value: Real, se: Real | None, *, sign: bool = False) -> str:
    """`0.61 ± 0.03`: value and standard error to the error's second significant digit."""
    plus = "+" if sign and value > 0 else ""
    if not se or not math.isfinite(se):
        return plus + number(value)
    places = min(6, max(0, 1 - math.floor(math.log10(se))))
    return f"{plus}{fixed(value, places)}\u00a0±\u00a0{fixed(se, places)}"


def interval(value: Real, low: Real, high: Real, *, places: int = 3, sign: bool = False) -> str:
    """`0.613 [0.552, 0.674]`; unknown ends are marked."""
    if math.isnan(value):
        return NONE
    ends = "not known" if math.isnan(low) else f"{fixed(low, places, sign=sign)}, {fixed(high, places, sign=sign)}"
    return f"{fixed(value, places, sign=sign)} [{ends}]"


PARTS = ("se", "low", "high")  # of a metric: its standard error, and the ends of its interval


def is_part(key: str) -> bool:
    """Whether a key names the error or an end of the interval of another metric."""
    return key.endswith(tuple(f"_{part}" for part in PARTS))


def cell(metrics: Mapping[str, Any], key: str) -> str:
    """A metric with its standard error or interval."""
    value, (se, low, high) = metrics.get(key), (metrics.get(f"{key}_{part}") for part in PARTS)
    if value is None:
        return NONE
    if low is not None and high is not None:
        return interval(value, low, high)
    return number(value) if se is None else plus_minus(value, se)


def decimals(low: Real, high: Real, *bounds: Real) -> int:
    """Decimals for two digits of an interval's width, more where rounding would move an end over a bound (0)."""
    digits = 3 if high == low else min(4, max(0, 1 - math.floor(math.log10(high - low))))
    ends = [(end, bound) for end in (low, high) for bound in bounds or (0.0,)]
    while digits < DECIMALS and any(_side(round(end, digits), bound) != _side(end, bound) for end, bound in ends):
        digits += 1
    return digits


def against(value: Real, low: Real, high: Real, *bounds: Real, sign: bool = True) -> str:
    """An effect with its interval, to the decimals that the interval supports."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return interval(value, math.nan, math.nan, sign=sign)
    digits = decimals(low, high, *bounds)
    if 0 < max(abs(value), abs(low), abs(high)) < TINY and max(map(abs, bounds), default=0.0) < TINY:
        texts = [minus(f"{x:+.1e}" if sign else f"{x:.1e}") if x else "0" for x in (value, low, high)]
        return f"{texts[0]} [{texts[1]}, {texts[2]}]"
    return interval(value, low, high, places=digits, sign=sign)


def _side(x: Real, threshold: Real) -> int:
    return (x > threshold) - (x < threshold)


def clock(seconds: Real) -> str:
    """For a countdown: m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: Real | None) -> str:
    """For a sentence: `12 s`, `3 min 20 s`, `1 h 05 min`."""
    if seconds is None:
        return NONE
    whole = round(seconds)
    if whole < 60:
        return f"{number(seconds, 2) if 0 < seconds < 10 else whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def gibibytes(count: Real) -> str:
    """Bytes as `1.2 GiB`."""
    return f"{count / 2**30:.1f} GiB"
