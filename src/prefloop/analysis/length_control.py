"""The length-controlled win rate: what a judge would say if both answers were equally long (Dubois et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import norm

Array = NDArray[np.float64]
FEWEST = 20  # comparisons
RIDGE = 0.1  # of the length's coefficient, as a prior of 3 logits: keeps it finite where length decides everything


@dataclass(frozen=True)
class Controlled:
    """A win rate at equal lengths, with its interval, and by how much length decides."""

    rate: float
    low: float
    high: float
    length: float  # coefficient of tanh of the standardised difference in length, in logits


def controlled(
    wins: ArrayLike, longer: ArrayLike, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> Controlled | None:
    """The win rate at equal lengths.

    The logistic regression of AlpacaEval 2 (Dubois et al. 2024, eq. 2) for two models, without its instruction
    difficulties, which are fitted to annotations of many models:

        logit P(first wins) = θ + φ · tanh((len_1 − len_2) / sd(len_1 − len_2)),  rate = 1 / (1 + e^(−θ)).

    The interval is Wald's on θ, with a covariance that is robust to dependence within clusters (Liang & Zeger 1986).

    Args:
        wins: [N], 1 where the first answer wins, ½ for a tie, 0 where it loses.
        longer: [N], length of the first answer less that of the second, in any unit.
        clusters: N labels; comparisons with the same label are dependent.

    Returns:
        None for fewer than 20 comparisons, lengths that are all equal, or a winner that is always the same: then
        length cannot be separated from the rest.

    Raises:
        ValueError: not one length for each comparison, or a win outside [0, 1].
    """
    y, d = np.asarray(wins, dtype=np.float64), np.asarray(longer, dtype=np.float64)
    if y.shape != d.shape or y.ndim != 1 or not ((y >= 0) & (y <= 1)).all():
        raise ValueError("a win rate needs one win in [0, 1] and one difference in length for each comparison")
    spread = float(d.std()) if len(d) else 0.0
    if len(y) < FEWEST or spread == 0 or y.min() == y.max():
        return None
    x = np.stack([np.ones_like(d), np.tanh(d / spread)], axis=1)
    penalty = np.array([0.0, RIDGE])

    def loss(w: Array) -> tuple[float, Array]:
        z = x @ w
        value = -(y * log_expit(z) + (1 - y) * log_expit(-z)).sum() + 0.5 * (penalty * w**2).sum()
        return float(value), x.T @ (expit(z) - y) + penalty * w

    found = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    p = expit(x @ found)
    bread = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty))
    scores = x * (y - p)[:, None]
    label = np.unique(np.arange(len(y)) if clusters is None else _codes(clusters), return_inverse=True)[1]
    sums = np.stack([np.bincount(label, weights=column) for column in scores.T], axis=1)
    count = len(sums)
    covariance = bread @ (sums.T @ sums) @ bread * (count / (count - 1) if count > 1 else math.nan)
    half = float(norm.ppf((1 + level) / 2)) * math.sqrt(covariance[0, 0])
    rate, low, high = (float(expit(found[0] + shift)) for shift in (0.0, -half, half))
    return Controlled(rate, low, high, float(found[1]))


def _codes(labels: Sequence[Hashable]) -> NDArray[np.intp]:
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(label, len(places)) for label in labels])
