"""One rule for "is it real?": paired differences, Student's t interval, one wording. Imports no torch.

Two runs are compared on the same units, prompts or seeds: the mean of the differences has an interval by Student's t on
n − 1 degrees of freedom, which is valid for a handful of seeds too. Over-optimisation along one run's curve has its own
rule: see `overoptimisation`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from prefloop.analysis.numbers import decimals, fixed
from prefloop.analysis.statistics import Clusters, mean_se

Verdict = Literal["better", "worse", "not significantly different"]
LEVEL = 0.95
ROUNDING = 1e-12  # relative to the largest difference: a spread up to it counts as 0
RULE = (
    "a difference is called better or worse if the 95 % interval of the mean paired difference (Student's t, over"
    " prompts or seeds) excludes 0"
)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences a − b.

    Args:
        value: the mean.
        low, high: ends of its interval; nan if there are too few units.
        level: level of the interval.
        n: number of independent units.
        unit: name of the units, in the plural: `prompts`, `seeds`.
        higher_is_better: False for costs, such as numbers of tokens.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    unit: str
    higher_is_better: bool = True

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> Verdict:
        """Verdict on a against b, by RULE."""
        if not self.is_significant:
            return "not significantly different"
        return "better" if (self.value > 0) is self.higher_is_better else "worse"

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{fixed(self.value, 3, sign=True)} (no interval, {self.n} {self.unit}): {self.verdict}"
        places = decimals(self.low, self.high)
        value, low, high = (fixed(x, places, sign=True) for x in (self.value, self.low, self.high))
        ends = f"{100 * self.level:g} % interval {low} to {high}"
        return f"{value} ({ends}, {self.n} {self.unit}): {self.verdict}"


def paired(
    a: Mapping[Hashable, float],
    b: Mapping[Hashable, float],
    *,
    unit: str,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> Difference:
    """a − b over the units that both have.

    Args:
        a, b: one number per prompt or seed.
        unit: name of the keys, in the plural.
        higher_is_better: see `Difference`.

    Raises:
        ValueError: no unit in common, a number that is not finite, or a level outside (0, 1).
    """
    shared = [key for key in a if key in b]
    if not shared:
        raise ValueError(f"no {unit} in common")
    return difference([a[key] - b[key] for key in shared], unit=unit, higher_is_better=higher_is_better, level=level)


def difference(
    differences: ArrayLike,
    *,
    unit: str,
    clusters: Clusters | None = None,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> Difference:
    """The mean of paired differences, with its t interval.

    mean ± t · se on K − 1 degrees of freedom, se robust to dependence within K clusters (`statistics.mean_se`). If
    all K are equal, their spread is no estimate: then the interval is that number if K equal signs are less likely than
    1 − level by chance (2^(1−K), the sign test), and otherwise unknown.

    Args:
        differences: [N].
        unit: name of the independent units, in the plural.
        clusters: N labels; differences with the same label are dependent, for example several answers to one prompt.
        higher_is_better: see `Difference`.

    Raises:
        ValueError: no differences, one that is not finite, or a level outside (0, 1).
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("differences must be a list of one or more finite numbers")
    if not 0 < level < 1:
        raise ValueError(f"a confidence level must be between 0 and 1, not {level}")
    seen = mean_se(values, clusters=clusters)
    half = _half_width(seen.se, seen.units, level, least=ROUNDING * float(np.abs(values).max()))
    return Difference(seen.value, seen.value - half, seen.value + half, level, seen.units, unit, higher_is_better)


def _half_width(se: float, units: int, level: float, *, least: float) -> float:
    """Half the width of the interval; nan if the spread is unknown."""
    if units > 1 and se > least:
        return float(student.isf((1 - level) / 2, units - 1)) * se
    return 0.0 if 2.0 ** (1 - units) < 1 - level or (units > 1 and least == 0) else math.nan
