"""Which measure of the data tells beforehand what on-policy sampling will gain: rank correlations over problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from prefloop.advice.actions import ACTIONS
from prefloop.advice.regret import LEVEL
from prefloop.advice.table import Array, Table
from prefloop.advice.value import best_value
from prefloop.analysis.statistics import Interval, Statistic, bootstrap

FEWEST = 5  # problems, for a correlation


def on_policy_gain(table: Table) -> Array:
    """The best value of an on-policy action less that of an offline one on each problem, [n], as a share of the
    attainable gain; each best is chosen on one half of the seeds and scored on the other."""
    own = np.array([ACTIONS[name].switches.on_policy for name in table.actions])
    return best_value(table.values[:, own]) - best_value(table.values[:, ~own])


def spearman(x: Array, y: Array) -> float:
    """Rank correlation (Spearman 1904): Pearson's of the ranks, ties at their mean rank; nan if x or y is constant."""
    a, b = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else float("nan")


@dataclass(frozen=True)
class Correlation:
    """Of a feature with the gain, over the problems in which it is known."""

    feature: str
    rho: Interval


def correlations(table: Table, gain: Array, names: Sequence[str]) -> list[Correlation]:
    """The rank correlation of each feature, the largest first, with bootstrap intervals over problems."""
    found = [Correlation(name, _over(table, gain, (name,), _rank)) for name in names]
    return sorted(found, key=lambda one: -abs(np.nan_to_num(one.rho.value)))


def ahead(table: Table, gain: Array, one: str, other: str) -> Interval:
    """How much larger the absolute correlation of one feature is than that of another, where both are known."""
    return _over(table, gain, (one, other), lambda rows: abs(_rank(rows)) - abs(_rank(rows[:, 1:])))


def _rank(rows: Array) -> float:
    """Of the first column with the last."""
    return spearman(rows[:, 0], rows[:, -1])


def _over(table: Table, gain: Array, names: Sequence[str], statistic: Statistic) -> Interval:
    """A statistic of the features and the gain, [n, len(names) + 1], of the problems where all are known."""
    rows = np.column_stack([*(table.features[:, table.names.index(name)] for name in names), gain])
    rows = rows[np.isfinite(rows).all(1)]
    if len(rows) < FEWEST:
        return Interval(math.nan, math.nan, math.nan, LEVEL, len(rows))
    return bootstrap(rows, statistic, seed=0, level=LEVEL)
