"""A statistic of all held-out examples as the mean of one number per example. Imports no torch.

`compare` judges means of paired differences. An AUC or a ratio is no mean, but to first order it moves as the mean of
these numbers does (its influence values): they have the statistic as their mean, and their variance is DeLong's for an
AUC, the delta method's for a ratio. So the differences of two models, example by example, have its interval.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def separation_parts(values: ArrayLike, good: ArrayLike) -> NDArray[np.float64]:
    """Numbers whose mean is P(a good example has the higher value than one that is not), ties counting ½.

    Args:
        values: [N].
        good: whether each is labelled good; both kinds must occur.
    """
    value, kind = np.asarray(values, dtype=np.float64), np.asarray(good, dtype=bool)
    order = (np.sign(value[kind][:, None] - value[~kind][None]) + 1) / 2
    whole, out = order.mean(), np.empty(len(value))
    out[kind] = (order.mean(1) - whole) * len(value) / kind.sum()
    out[~kind] = (order.mean(0) - whole) * len(value) / (~kind).sum()
    return whole + out


def rate_parts(totals: ArrayLike, sizes: ArrayLike) -> NDArray[np.float64]:
    """Numbers whose mean is the sum of totals over the sum of sizes, such as a loss per token.

    Args:
        totals, sizes: [N] of each example.
    """
    total, size = np.asarray(totals, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    rate = total.sum() / size.sum()
    out: NDArray[np.float64] = rate + (total - rate * size) * len(total) / size.sum()
    return out
