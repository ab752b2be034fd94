"""What choosing a learning rate on few seeds adds to the uncertainty of a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 200


def choice_se(scores: ArrayLike, *, seed: int = 0, n: int = RESAMPLES) -> float:
    """Standard deviation of a tuned cell's score over repetitions of the last stage of its tuning.

    The tuning seeds are resampled, m − 1 of m, so that the resampled means have the variance s²/m without bias; the
    best rate is chosen again, and is worth its mean over all seeds. These means differ by noise as well as in truth:
    the answer is too large where rates are alike, and too small where tuning took the wrong one of two rates that are
    not. Both errors shrink with more tuning seeds: see `simulation`.

    Args:
        scores: [rates, seeds] of the rates among which the last stage chose, all on the same seeds.
        seed: seed of the resampling.
        n: number of resamples.

    Raises:
        ValueError: not a matrix of two or more seeds, or a score that is not finite.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise ValueError("tuning scores must be a matrix of finite numbers, rates by two or more seeds")
    seeds = table.shape[1]
    drawn = table[:, np.random.default_rng(seed).integers(seeds, size=(n, seeds - 1))]
    return float(table.mean(1)[drawn.mean(-1).argmax(0)].std())
