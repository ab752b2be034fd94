"""One rule for "is it real?": paired differences, Student's t interval, one wording. Imports no torch.

Two runs are compared on the same units, prompts or seeds: the mean of the differences has an interval by Student's t on
n − 1 degrees of freedom, which is valid for a handful of seeds too. Several seeds that answer the same prompts have two
sources of chance, and `crossed` covers both. Over-optimisation along one run's curve has its own rule: see
`overoptimisation`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from prefloop.analysis.numbers import decimals, fixed
from prefloop.analysis.statistics import Clusters, mean_se

Verdict = Literal["better", "worse", "not significantly different"]
Scores: TypeAlias = Mapping[Any, Mapping[Any, float]]  # seed -> prompt -> number
LEVEL = 0.95
LEAST_SEEDS = 3  # with fewer, an interval over seeds is too wide to be of use: then it is over prompts
ROUNDING = 1e-12  # relative to the largest difference: a spread up to it counts as 0
RULE = (
    "a difference is called better or worse if the 95 % interval of the mean paired difference (Student's t, over"
    " prompts, seeds, or both) excludes 0"
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
        se, df: standard error and degrees of freedom of the interval; nan if unknown.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    unit: str
    higher_is_better: bool = True
    se: float = math.nan
    df: float = math.nan

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
    return _judged(seen.value, seen.se, seen.units - 1.0, seen.units, values, unit, higher_is_better, level)


def crossed(
    a: Scores,
    b: Scores,
    *,
    unit: str = "prompts",
    clusters: Mapping[Any, Hashable] | None = None,
    higher_is_better: bool = True,
    level: float = LEVEL,
) -> Difference:
    """a − b of methods that were trained with several seeds and answered the same held-out prompts.

    The difference of seed s on prompt p is μ + seed_s + prompt_p + rest_sp. An interval for the next seed *and* the
    next prompt must cover both main effects. With Ā_s the mean over prompts of seed s, B̄_p the mean over seeds, and C
    clusters of prompts,

        V_seed = var(Ā)/S,  V_prompt = se²(B̄), clustered,  V_rest = Σ_s se²(rest_s), clustered / (S(S − 1)),
        V = V_seed + max(V_prompt − V_rest, 0),  df = V² / (V_seed²/(S − 1) + (V − V_seed)²/(C − 1)):

    the variance of a mean in a crossed random-effects model (two-way clustering, Cameron, Gelbach & Miller 2011, by
    mean squares, so that no part is short by 1/S), and Student's t with Satterthwaite's (1946) degrees of freedom. It
    is never narrower than t · √V_seed on S − 1, the interval for these prompts alone. Coverage by simulation, also of
    what is not used: `covered`.

    - Three or more seeds in common: this interval; the unit is the seed, paired with the same seed of the other.
    - Fewer: the means over all seeds of each, paired by prompt. The interval is about the trained models; it does not
      cover differences between seeds, so it says nothing on the next training.
    - One number per seed, no prompts (a problem of the lab, where each seed draws prompts of its own): t over seeds.

    Args:
        a, b: a number for each prompt of each seed.
        unit: name of the prompts, in the plural.
        clusters: a label for each prompt; prompts with the same label are dependent.
        higher_is_better: see `Difference`.

    Raises:
        ValueError: no prompt or no seed in common, a number that is not finite, or a level outside (0, 1).
    """
    seeds = [seed for seed in a if seed in b]
    if all(len(own) == 1 for own in (*a.values(), *b.values())):
        mine, theirs = ({seed: fmean(own.values()) for seed, own in each.items()} for each in (a, b))
        return paired(mine, theirs, unit="seeds", higher_is_better=higher_is_better, level=level)
    over_seeds = len(seeds) >= LEAST_SEEDS
    own, other = ([x[seed] for seed in seeds] if over_seeds else list(x.values()) for x in (a, b))
    shared = [p for p in (own or [{}])[0] if all(p in each for each in (*own, *other))]
    if not shared:
        raise ValueError(f"no {unit} in common")
    first, second = (np.array([[row[p] for p in shared] for row in rows]) for rows in (own, other))
    labels = None if clusters is None else [clusters[p] for p in shared]
    if not over_seeds:
        gaps = first.mean(0) - second.mean(0)
        return difference(gaps, unit=unit, clusters=labels, higher_is_better=higher_is_better, level=level)
    table = first - second
    alone = difference(table.mean(1), unit="seeds", level=level)
    se, df = max(_both(table, labels, alone.se), (alone.se, alone.df), key=lambda of: _times(of[1], level) * of[0])
    name = f"seeds × {len(set(labels or shared))} {unit}"
    return _judged(float(table.mean()), se, df, len(seeds), table, name, higher_is_better, level)


def level_with(scores: Scores, value: float = 0.0) -> Scores:
    """A constant for every number, which others are compared with."""
    return {seed: dict.fromkeys(own, value) for seed, own in scores.items()}


def _both(table: NDArray[np.float64], clusters: Clusters | None, se_seed: float) -> tuple[float, float]:
    """Standard error and degrees of freedom of the mean of [seeds, prompts], over both."""
    seeds, by_prompt = len(table), mean_se(table.mean(0), clusters=clusters)
    rest = table - table.mean(0)  # up to a number for each seed, which its standard error does not depend on
    noise = sum(mean_se(row, clusters=clusters).se ** 2 for row in rest) / (seeds * (seeds - 1))
    seed, prompt = se_seed**2, max(by_prompt.se**2 - noise, 0.0) if by_prompt.units > 1 else 0.0
    if not seed + prompt:
        return 0.0, seeds - 1.0
    df = (seed + prompt) ** 2 / (seed**2 / (seeds - 1) + prompt**2 / max(by_prompt.units - 1, 1))
    return math.sqrt(seed + prompt), df


def _judged(
    value: float, se: float, df: float, units: int, x: NDArray[np.float64], unit: str, higher: bool, level: float
) -> Difference:
    """The difference with its interval."""
    half = _half_width(se, df, units, level, least=ROUNDING * float(np.abs(x).max()))
    return Difference(value, value - half, value + half, level, units, unit, higher, se, df)


def _half_width(se: float, df: float, units: int, level: float, *, least: float) -> float:
    """Half the width of the interval; nan if the spread is unknown."""
    if units > 1 and se > least:
        return _times(df, level) * se
    return 0.0 if 2.0 ** (1 - units) < 1 - level or (units > 1 and least == 0) else math.nan


def _times(df: float, level: float) -> float:
    """Student's quantile: half the width of an interval in standard errors."""
    return float(student.isf((1 - level) / 2, df))
