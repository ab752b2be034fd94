"""Where the reward's peak lies for the reference (C1), from the rewards of groups of its samples.

P prompts, n samples of π_ref to each: rewards [P, n]. Standard errors are over prompts, which are independent draws;
the n samples to a prompt are independent given it. Exact counterparts: `enumerated`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, log_ndtr, logsumexp

from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.statistics import Mean, mean_se

Array: TypeAlias = NDArray[np.float64]

LEAST_ESS = 8.0  # effective samples of a prompt below which its weights are not believed
MOST_BELOW = 0.1  # share of the prompts that may have fewer
Z = 1.96  # normal quantile at which Woodruff's interval is inverted
FEWEST = 16  # samples of a prompt from which a best-of-n curve is extrapolated
FACTOR = 4  # how far: the factor over which the fit is tried where the answer is known
POINTS = 4  # sizes that are fitted
MISS, FLOOR, MISS_SHARE = 3.0, 0.1, 0.25  # standard errors, and shares of the gain, by which the fit may miss there
HEAVIEST = 0.3  # exponent of a tail from which it is not continued
MOST_TIED = 0.25  # share of the prompts whose best reward several samples may share


# ---- rewards of single responses ------------------------------------------------------------------------------------


def standardised(rewards: Array) -> Array:
    """(r − mean_x)/sd_x with the mean and standard deviation of each prompt's own samples: what differs between prompts
    is taken out. Prompts whose samples all score the same are left out.

    Estimates the standardisation by the exact moments with a bias of order 1/n.
    """
    spread = rewards.std(1, ddof=1)
    some = spread > 0
    return (rewards[some] - rewards[some].mean(1, keepdims=True)) / spread[some, None]


def quantiles(rewards: Array, levels: Sequence[float]) -> list[Mean]:
    """Quantiles of the reward of a response to a random prompt: the smallest r with F(r) ≥ level.

    Estimator: of all P·n rewards. Standard error by Woodruff (1952): the ends of the interval level ± 1.96 se(F̂), with
    se over prompts, are taken back through F̂; their distance divided by 2 · 1.96. Zero where rewards are tied.
    """
    values, prompt = rewards.ravel(), np.repeat(np.arange(len(rewards)), rewards.shape[1])

    def one(level: float) -> Mean:
        at = _quantile(values, level)
        share = mean_se(values <= at, clusters=prompt)
        if math.isnan(share.se):
            return Mean(at, math.nan, share.units)
        low, high = (_quantile(values, min(max(level + side * Z * share.se, 0.0), 1.0)) for side in (-1, 1))
        return Mean(at, (high - low) / (2 * Z), share.units)

    return [one(level) for level in levels]


def _quantile(values: Array, level: float) -> float:
    return float(np.quantile(values, level, method="inverted_cdf"))


# ---- the best of several --------------------------------------------------------------------------------------------


def best_of(rewards: Array, sizes: Sequence[int]) -> list[Mean]:
    """E[max of m rewards to one prompt] for each m ≤ n.

    Estimator: Σ_i r_(i) C(i − 1, m − 1)/C(n, m) over a prompt's order statistics r_(1) ≤ … ≤ r_(n): the mean of the
    maximum over all subsets of m samples, so unbiased, and of least variance. Mean and standard error over prompts.

    Raises:
        ValueError: m below 1 or above n.
    """
    return [mean_se(best_of_each(rewards, size)) for size in sizes]


def best_of_each(rewards: Array, size: int) -> Array:
    """The estimate of `best_of` for each prompt, [P]."""
    n = rewards.shape[1]
    if not 1 <= size <= n:
        raise ValueError(f"the best of {size} cannot be computed from {n} samples")
    rank = np.arange(size, n + 1)
    weight = np.exp(_log_choose(rank - 1, size - 1) - _log_choose(n, size))
    return np.asarray(np.sort(rewards, axis=1)[:, size - 1 :] @ weight)


def best_of_kl(size: int) -> float:
    """log n − (n − 1)/n nats, an upper bound of KL(best-of-n‖π_ref) (Stiennon et al. 2020; a bound, not the KL itself,
    unless no two responses score the same and none is likely: Beirami et al. 2024, arXiv:2401.01879, Theorem 1)."""
    return math.log(size) - (size - 1) / size


def reach(rewards: Array, target: float, sizes: Sequence[int]) -> list[Mean]:
    """Chance that the best of m samples to one prompt has at least the target reward, for each m ≤ n.

    Estimator: 1 − C(n − c, m)/C(n, m) with c of a prompt's n samples at or above the target: unbiased (Chen et al.
    2021, arXiv:2107.03374, eq. 1). The target counts as known, also where it is a quantile of these samples.
    """
    n, good = rewards.shape[1], (rewards >= target).sum(1)

    def each(size: int) -> Array:
        without = np.exp(_log_choose(np.maximum(n - good, size), size) - _log_choose(n, size))
        return 1 - np.where(n - good >= size, without, 0.0)

    return [mean_se(each(size)) for size in sizes]


def _log_choose(n: NDArray[np.int64] | int, k: int) -> Array:
    return np.asarray(gammaln(np.asarray(n) + 1.0) - gammaln(k + 1.0) - gammaln(np.asarray(n) - k + 1.0))


# ---- beyond the samples ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beyond:
    """A best-of-n curve continued beyond the group size.

    Args:
        value: at the asked size; its error is that over prompts and the miss together.
        miss: what the same fit to a quarter of the group size predicts for the whole, minus what is measured there.
        tail: normal, or Pareto.
    """

    value: Mean
    miss: Mean
    tail: str


def extrapolate(rewards: Array, size: int) -> Beyond | CannotTell:
    """E[max of m] for n < m ≤ 4n.

    Fit: a + b E(m), b ≥ 0, by least squares to the curve at m = n, n/2, n/4 and n/8 (rounded down to powers of 2); E(m)
    is the expected maximum of m draws of a normal law, or of a generalised Pareto law with ξ in [−1, ½], that of a tail
    (Coles 2001, § 4.2), which grows as m^ξ, or as log m at ξ = 0. Both fits, ending at n/4, are tried at n, as far
    beyond their samples, and the better one is taken.

    Refused: a miss there by more than a quarter of the gain from n/4 to n, or by a tenth of it and 3 standard errors; ξ
    of 0.3 or more; a best reward that samples often share, beyond which there is no smooth tail. Standard errors by the
    jackknife over prompts; that of the value adds the miss, or a tenth of the gain if that is more, in quadrature. No
    fit sees a second mode that hardly a sample has reached.
    """
    prompts, n = rewards.shape
    if n < FEWEST:
        return CannotTell(f"a best-of-n curve is continued from {FEWEST} samples to a prompt on, and there are {n}")
    if size > FACTOR * n:
        return CannotTell(f"{n} samples to a prompt carry the best-of-n curve to {FACTOR * n}, not to {size}")
    if prompts < 3:
        return CannotTell(f"the fit's error needs 3 prompts, and there are {prompts}")
    tied = float(((rewards == rewards.max(1, keepdims=True)).sum(1) > 1).mean())
    if tied > MOST_TIED:
        return CannotTell(
            f"several samples share the best reward of {tied:.0%} of the prompts: there is no smooth tail"
        )
    sizes = [2**k for k in range(n.bit_length())]
    inner = [m for m in sizes if m <= n // FACTOR]
    each = np.array([best_of_each(rewards, m) for m in (*sizes, n)])  # [sizes, P]

    def tried(tail: str) -> Mean:
        fit = _fit(tail, inner, n)
        return _jackknife(each, lambda curve: fit(curve[: len(inner)])[1] - float(curve[-1]))

    misses = {tail: tried(tail) for tail in TAILS}
    tail = min(misses, key=lambda name: abs(misses[name].value))
    miss, gain = misses[tail], float(each[-1].mean() - each[len(inner) - 1].mean())
    if abs(miss.value) > min(MISS_SHARE * gain, max(MISS * miss.se, FLOOR * gain)):
        what = f"continued from the best of {inner[-1]}, it misses the gain {gain:.3g} to the best of {n}"
        return CannotTell(f"the best-of-n curve has no such tail: {what} by {miss.value:+.3g} ± {miss.se:.2g}")
    fit = _fit(tail, sizes, size)
    if fit(each.mean(1)[:-1])[0] >= HEAVIEST:
        return CannotTell("the best-of-n curve bends upwards: rare high rewards, of which the samples show too few")
    value = _jackknife(each, lambda curve: fit(curve[:-1])[1])
    error = math.hypot(value.se, max(abs(miss.value), FLOOR * gain))
    return Beyond(Mean(value.value, error, prompts), miss, tail)


def _fit(tail: str, sizes: Sequence[int], size: int) -> Callable[[Array], tuple[float, float]]:
    """A function that fits a curve at its last sizes, and gives the exponent and the value at another size."""
    powers, last = list(TAILS[tail]), np.asarray(sizes)[-POINTS:]
    growth = np.array([expected(last) for expected in TAILS[tail].values()])
    beyond = np.array([expected(np.array([size]))[0] for expected in TAILS[tail].values()])
    middle = growth.mean(1, keepdims=True)
    away = growth - middle

    def fit(curve: Array) -> tuple[float, float]:
        y = curve[-POINTS:]
        slope = np.maximum(away @ y / (away**2).sum(1), 0.0)
        best = int(np.argmin(((y - y.mean() - slope[:, None] * away) ** 2).sum(1)))
        return powers[best], float(y.mean() + slope[best] * (beyond[best] - middle[best, 0]))

    return fit


def _pareto(power: float, m: NDArray[np.int64]) -> Array:
    """E[max of m] of a generalised Pareto law of scale 1; of an exponential law, Σ_{i≤m} 1/i, at exponent 0."""
    if abs(power) < 1e-9:
        return np.asarray(digamma(m + 1.0) - digamma(1.0))
    return np.asarray((np.exp(gammaln(m + 1.0) + gammaln(1 - power) - gammaln(m + 1 - power)) - 1) / power)


def _normal(m: NDArray[np.int64]) -> Array:
    """E[max of m] of a standard normal law: ∫ (1{x > 0} − Φ(x)^m) dx."""
    x = np.linspace(-9.0, 9.0, 3601)  # 0 is on the grid, and its step counts half
    return np.asarray((np.heaviside(x, 0.5) - np.exp(m[:, None] * log_ndtr(x))).sum(1) * (x[1] - x[0]))


TAILS: dict[str, dict[float, Callable[[NDArray[np.int64]], Array]]] = {
    "normal": {0.0: _normal},
    "Pareto": {power: partial(_pareto, power) for power in np.linspace(-1.0, 0.5, 31).tolist()},
}


def _jackknife(each: Array, statistic: Callable[[Array], float]) -> Mean:
    """A statistic of means over prompts, and its standard error: each prompt left out in turn (Efron & Tibshirani 1993,
    ch. 11)."""
    count = each.shape[1]
    total = each.sum(1)
    left_out = np.array([statistic((total - each[:, i]) / (count - 1)) for i in range(count)])
    spread = (count - 1) / count * ((left_out - left_out.mean()) ** 2).sum()
    return Mean(statistic(total / count), float(np.sqrt(spread)), count)


# ---- the optimum of J_β ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tilt:
    """π* = π_ref exp(r/β)/Z, the optimum of E[r] − β KL(π‖π_ref), as seen from samples of π_ref; means over prompts.

    Args:
        log_z: log E_ref exp(r/β).
        kl: KL(π*‖π_ref) in nats.
        divergence: 1 + χ²(π*‖π_ref) = E_ref[w²]/E_ref[w]² of the weights w = exp(r/β): the coverage coefficient
            E_π*[π*/π_ref] of single-policy concentrability.
        ess: median over prompts of the effective number of samples.
    """

    beta: float
    log_z: Mean
    kl: Mean
    divergence: Mean
    ess: float


def effective(rewards: Array, beta: float) -> Array:
    """Effective number of samples of each prompt, (Σw)²/Σw² with w = exp(r/β) (Kong 1992), [P]."""
    scaled = rewards / beta
    return np.exp(2 * logsumexp(scaled, axis=1) - logsumexp(2 * scaled, axis=1))


def tilt(rewards: Array, beta: float) -> Tilt | CannotTell:
    """The optimum of J_β from self-normalised importance weights w_i = exp(r_i/β) on samples of the reference.

    Per prompt log Ẑ = log mean w, KL = Σ w_i r_i/(β Σ w) − log Ẑ and 1 + χ² = n/ESS; all are biased by order 1/n, which
    the jackknife n θ̂ − (n − 1) mean θ̂_(−i) removes (Quenouille 1956). Means and standard errors over prompts.

    Refused where more than one prompt in ten has fewer than 8 effective samples: the weight then sits on responses that
    the samples have hardly seen, of which about exp(KL) would be needed (Chatterjee & Diaconis 2018, Theorem 1.1).
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"β must be a finite number above 0, not {beta}")
    if rewards.shape[1] < 2:
        return CannotTell("one sample to a prompt has no spread")
    ess = effective(rewards, beta)
    below = float((ess < LEAST_ESS).mean())
    if below > MOST_BELOW:
        what = f"at β = {beta:.3g} {below:.0%} of the prompts have fewer than {LEAST_ESS:.0f} effective samples"
        return CannotTell(f"{what} of {rewards.shape[1]} (median {np.median(ess):.1f})")
    log_z, kl, divergence = (mean_se(x) for x in _debiased(rewards / beta))
    return Tilt(beta, log_z, kl, divergence, float(np.median(ess)))


def smallest_beta(rewards: Array) -> float:
    """The smallest β at which `tilt` is not refused; infinite if there is none.

    The effective number of samples rises with β, because log E exp(t r) is convex in t.
    """
    spread = float(rewards.max() - rewards.min())
    if rewards.shape[1] < LEAST_ESS:
        return math.inf
    if spread == 0:
        return 0.0

    def holds(beta: float) -> bool:
        return float((effective(rewards, beta) < LEAST_ESS).mean()) <= MOST_BELOW

    low, high = spread * 1e-4, spread * 1e3
    if not holds(high):
        return math.inf
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _debiased(scaled: Array) -> tuple[Array, Array, Array]:
    """Jackknifed log Z, KL and 1 + χ² of each prompt."""
    n, top = scaled.shape[1], scaled.max(1, keepdims=True)
    w = np.exp(scaled - top)
    parts = (w, w * scaled, w * w)
    sums = [x.sum(1, keepdims=True) for x in parts]
    without = [s - x for s, x in zip(sums, parts, strict=True)]
    without[::2] = [np.maximum(s, 1e-300) for s in without[::2]]  # one weight that is all: its prompt is not believed
    whole, others = _tilted(sums, n, top), _tilted(without, n - 1, top)
    log_z, kl, divergence = (n * a[:, 0] - (n - 1) * b.mean(1) for a, b in zip(whole, others, strict=True))
    return log_z, kl, divergence


def _tilted(sums: Sequence[Array], n: int, top: Array) -> tuple[Array, Array, Array]:
    """log Z, KL and 1 + χ² from Σw, Σw r/β and Σw²."""
    total, scored, squared = sums
    log_z = np.log(total / n) + top
    return log_z, scored / total - log_z, n * squared / total**2
