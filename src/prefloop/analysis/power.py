"""What a comparison could have seen. Imports no torch."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, ndtr
from scipy.stats import t as student

from prefloop.analysis.compare import LEVEL, Difference
from prefloop.analysis.numbers import Real

POWER = 0.8
GRID = (np.arange(4000) + 0.5) / 4000  # quantiles over which the spread of the standard error is averaged


def detectable(se: Real, df: Real, *, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that a paired comparison calls real with probability `power`.

    δ = λ · se with P(|t_df(λ)| > t_{df, (1 + level)/2}) = power, t_df(λ) Student's noncentral t: the exact form of
    (t + t_power) · se (Bloom 1995).

    Args:
        se: standard error of the mean difference. Of n pairs with standard deviation s it is s/√n.
        df: its degrees of freedom, n − 1; see `Difference.df`.

    Returns:
        nan if the standard error is unknown or 0: then nothing is known of other samples.

    Raises:
        ValueError: a level or power outside (0, 1), or a power that chance alone exceeds.
    """
    if not (0 < level < 1 and 1 - level < power < 1):
        raise ValueError(f"a level is in (0, 1) and a power above 1 − level and below 1, not {level} and {power}")
    if not (se > 0 and df > 0):
        return math.nan
    critical = float(student.isf((1 - level) / 2, df))
    limits = critical * np.sqrt(chdtri(df, GRID) / df)  # of Z + λ: critical value × estimated ÷ true standard error

    def short(shift: float) -> float:
        return float((ndtr(shift - limits) + ndtr(-shift - limits)).mean()) - power

    return se * float(brentq(short, 0.0, float(limits.max()) + 10.0))


def seen(of: Difference, *, power: float = POWER) -> float:
    """The smallest true difference that this comparison would have called real with probability `power`."""
    return detectable(of.se, of.df, level=of.level, power=power)
