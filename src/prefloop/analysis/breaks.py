"""Where runs break, two outcomes instead of a mean: how often they do, and the median of those that did not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import quantile_test

from prefloop.analysis.compare import LEVEL
from prefloop.analysis.statistics import Interval, proportion


@dataclass(frozen=True)
class Breaks:
    """Runs of one cell.

    Args:
        share: of runs that broke, with an interval at least as wide as Wilson's.
        median: of the others, with the interval of order statistics; nan where there are too few of them.
    """

    share: Interval
    median: Interval


def breaks(scores: ArrayLike, broke: ArrayLike, *, level: float = LEVEL) -> Breaks:
    """Share of broken runs and median score of the others.

    Args:
        scores: [n]; those of broken runs are not read.
        broke: [n], whether the run broke.

    Raises:
        ValueError: no runs, or not one mark per score.
    """
    x, broken = np.asarray(scores, dtype=np.float64), np.asarray(broke, dtype=bool)
    if x.shape != broken.shape or x.ndim != 1:
        raise ValueError(f"scores {x.shape} and marks of broken runs {broken.shape} must be lists of one length")
    return Breaks(proportion(broken, seed=0, level=level), _median(x[~broken], level))


def _median(x: np.ndarray, level: float) -> Interval:
    if not len(x):
        return Interval(np.nan, np.nan, np.nan, level, 0)
    low, high = quantile_test(x, p=0.5).confidence_interval(confidence_level=level)
    return Interval(float(np.median(x)), float(low), float(high), level, len(x))
