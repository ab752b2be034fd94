"""Means, interquartile means and bootstrap intervals, clustered by question: answers to one question are dependent."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from prefloop.analysis.numbers import fixed, interval

Array = NDArray[np.float64]
Statistic = Callable[[Array], float]
Clusters = Sequence[Hashable] | NDArray[Any]
UNDEFINED = 0.05  # with a larger share of undefined resamples there is no interval


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error (nan if undefined: fewer than two independent units)."""

    value: float
    se: float
    units: int  # number of independent units: clusters, or rows if there are none

    def __str__(self) -> str:
        return f"{fixed(self.value)} ± {fixed(self.se)}"


@dataclass(frozen=True)
class Interval:
    """A statistic and its bootstrap interval; its ends are nan if too few resamples are defined."""

    value: float
    low: float
    high: float
    level: float
    units: int  # number of resampled units: clusters, or rows if there are none

    def __str__(self) -> str:
        return interval(self.value, self.low, self.high)


def mean_se(x: ArrayLike, *, clusters: Clusters | None = None) -> Mean:
    """Mean of all rows and its standard error, robust to dependence within clusters.

    se² = K/(K−1) · Σ_k (Σ_{i∈k} (x_i − x̄))² / N² over K clusters (Liang & Zeger 1986); one row per cluster gives s/√N.

    Args:
        x: [N].
        clusters: N labels; rows with the same label are dependent.

    Raises:
        ValueError: no values, or not one label per value.
    """
    values = _rows(x)
    label, count = _labels(clusters, len(values))
    mean = float(values.mean())
    if count < 2:
        return Mean(mean, float("nan"), count)
    sums = np.bincount(label, weights=values - mean, minlength=count)
    return Mean(mean, float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(values)), count)


def iqm(x: ArrayLike) -> float:
    """Interquartile mean: the mean without the ⌊N/4⌋ lowest and highest values (Agarwal et al. 2021)."""
    values = np.sort(np.asarray(x, dtype=np.float64), axis=None)
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def mean(x: Array) -> float:
    return float(x.mean())


def bootstrap(
    values: ArrayLike,
    statistic: Statistic = mean,
    *,
    clusters: Clusters | None = None,
    seed: int,
    n: int = 2000,
    level: float = 0.95,
) -> Interval:
    """A statistic of the rows and its interval by resampling whole clusters (Efron & Tibshirani 1993, ch. 13).

    The same seed and the same clusters resample the same rows, so that intervals of several columns are paired.

    Args:
        values: [N] or [N, ...]; `statistic` is applied to resampled rows.
        clusters: N labels, for example questions; by default each row is its own cluster.
        n: number of resamples.

    Raises:
        ValueError: no values, not one label per value, or a level outside (0, 1).
    """
    rows, tail = _rows(values), _tail(level)
    label, count = _labels(clusters, len(rows))
    members = _Members(label, count)
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(rows[members.of(rng.integers(count, size=count))]) for _ in range(n)])
    value = float(statistic(rows))
    return _interval(value, drawn, tail, level, count)


def proportion(
    x: ArrayLike, *, clusters: Clusters | None = None, seed: int, n: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of values in [0, 1], with an interval that does not collapse if all rows are equal.

    The bootstrap interval, widened to Wilson's (1927) for the effective number of rows x̄(1 − x̄)/se², or for the number
    of clusters if se is 0 or undefined: then the dependence within clusters is unknown.

    Args:
        x: [N].
        clusters: N labels; whole clusters are resampled.

    Raises:
        ValueError: no values, not one label per value, or a level outside (0, 1).
    """
    interval, seen = bootstrap(x, clusters=clusters, seed=seed, n=n, level=level), mean_se(x, clusters=clusters)
    p, z = seen.value, float(ndtri(1 - _tail(level)))
    size = min(p * (1 - p) / seen.se**2, len(_rows(x))) if seen.se > 0 else seen.units
    centre = (p + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * math.sqrt(p * (1 - p) / size + (z / (2 * size)) ** 2) / (1 + z**2 / size)
    return _widened(interval, max(centre - half, 0.0), min(centre + half, 1.0))


def difference(
    x: ArrayLike, *, clusters: Clusters | None = None, seed: int, n: int = 2000, level: float = 0.95
) -> Interval:
    """Mean of paired differences in [−1, 1] of two shares, with an interval that stays wide if few rows differ.

    The bootstrap interval, widened to x̄ ± z √(se² + 1/K²): as if half a cluster more, of K, had gone each way (after
    Agresti & Min 2005).

    Args:
        x: [N], difference of each row.
        clusters: N labels; whole clusters are resampled.

    Raises:
        ValueError: no values, not one label per value, or a level outside (0, 1).
    """
    interval, seen = bootstrap(x, clusters=clusters, seed=seed, n=n, level=level), mean_se(x, clusters=clusters)
    se = seen.se if seen.units > 1 else 0.0
    half = float(ndtri(1 - _tail(level))) * math.hypot(se, 1 / seen.units)
    return _widened(interval, max(seen.value - half, -1.0), min(seen.value + half, 1.0))


def stratified_bootstrap(
    scores: ArrayLike, statistic: Statistic = iqm, *, seed: int, n: int = 2000, level: float = 0.95
) -> Interval:
    """A statistic of runs × tasks, with the runs resampled separately for each task (Agarwal et al. 2021).

    Args:
        scores: [runs, tasks].

    Raises:
        ValueError: not a matrix, no values, or a level outside (0, 1).
    """
    table, tail = _rows(scores), _tail(level)
    if table.ndim != 2:
        raise ValueError("a stratified bootstrap needs a matrix of runs by tasks")
    rng, tasks = np.random.default_rng(seed), np.arange(table.shape[1])
    drawn = np.array([statistic(table[rng.integers(len(table), size=table.shape), tasks]) for _ in range(n)])
    return _interval(float(statistic(table)), drawn, tail, level, len(table))


class _Members:
    """Rows of a sequence of clusters, with repeats."""

    def __init__(self, label: NDArray[np.intp], count: int) -> None:
        self.order = np.argsort(label, kind="stable")
        self.size = np.bincount(label, minlength=count)
        self.start = np.cumsum(self.size) - self.size

    def of(self, clusters: NDArray[np.intp]) -> NDArray[np.intp]:
        size = self.size[clusters]
        first = np.repeat(self.start[clusters] - (np.cumsum(size) - size), size)
        return self.order[first + np.arange(size.sum())]


def _interval(value: float, drawn: Array, tail: float, level: float, units: int) -> Interval:
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < (1 - UNDEFINED) * len(drawn):
        return Interval(value, math.nan, math.nan, level, units)
    low, high = np.quantile(defined, (tail, 1 - tail))
    return Interval(value, float(low), float(high), level, units)


def _widened(interval: Interval, low: float, high: float) -> Interval:
    return replace(interval, low=min(interval.low, low), high=max(interval.high, high))


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level must be between 0 and 1, not {level}")
    return (1 - level) / 2


def _rows(values: ArrayLike) -> Array:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError("a statistic needs at least one row")
    return rows


def _labels(clusters: Clusters | None, rows: int) -> tuple[NDArray[np.intp], int]:
    """Cluster number of each row, in order of first appearance, and the number of clusters."""
    if clusters is None:
        return np.arange(rows), rows
    if len(clusters) != rows:
        raise ValueError(f"{len(clusters)} cluster labels for {rows} rows")
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(c, len(number)) for c in clusters]), len(number)
