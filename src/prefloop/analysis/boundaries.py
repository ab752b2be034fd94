"""Critical values of a sequential study: when it may stop, and how wide its last interval is. Exact for normal effects.

Group sequential theory (Armitage, McPherson & Rowe 1969; O'Brien & Fleming 1979; Jennison & Turnbull 2000, ch. 2, 8):
after n_1 < … < n_K effects with mean x̄_k, Z_k = x̄_k √n_k / σ is Gaussian with corr(Z_j, Z_k) = √(n_j / n_k).

- Before the last evaluation the boundary is c √(n_K / n_k), O'Brien and Fleming's: high at first, so that few studies
  stop by luck. c is such that half of the error, (1 − level)/2, is spent there.
- At the last one the boundary is the constant z for which the error of all evaluations together is 1 − level.

c and z are roots of `crossing`, which integrates the density of Z_1 … Z_k by Gauss–Legendre quadrature. The variance of
real effects is estimated: Z's boundary becomes the t quantile of the same tail (`student`), which keeps the error over
eight evaluations within a few thousandths (Jennison & Turnbull 2000, § 3.8; tests/analysis/test_simulation.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import norm
from scipy.stats import t as student_t

NODES = 48  # of the quadrature: crossing to 1e-12
HIGHEST = 37.0  # a boundary that no normal number crosses


@dataclass(frozen=True)
class Boundaries:
    """Boundaries of |Z| for evaluations after `seeds` effects."""

    seeds: tuple[int, ...]
    interim: float  # c: the boundary after n effects is c √(most / n)
    last: float  # z: the boundary of the last evaluation, and of the interval that is reported at any stop

    def at(self, n: int) -> float:
        """Boundary at which a study may stop after n effects; n need not be one of `seeds`."""
        most = self.seeds[-1]
        return self.last if n >= most else max(self.interim * (most / n) ** 0.5, self.last)

    def p(self, z: float) -> float:
        """Probability under no effect of stopping with |Z| ≥ z: the p value of a study that stopped with |Z| = z."""
        return crossing((*(max(self.at(n), abs(z)) for n in self.seeds[:-1]), abs(z)), self.seeds)


@cache
def boundaries(seeds: tuple[int, ...], level: float) -> Boundaries:
    """The boundaries whose error over all evaluations is 1 − level, half of it spent before the last one."""
    error = 1 - level
    if len(seeds) == 1:
        last = float(norm.isf(error / 2))
        return Boundaries(seeds, last, last)
    shape = [(seeds[-1] / n) ** 0.5 for n in seeds[:-1]]

    def early(c: float) -> float:
        return crossing(tuple(c * x for x in shape), seeds[:-1]) - error / 2

    interim = float(brentq(early, 0.1, HIGHEST))

    def whole(z: float) -> float:
        return crossing((*(interim * x for x in shape), z), seeds) - error

    return Boundaries(seeds, interim, float(brentq(whole, 0.1, HIGHEST)))


def crossing(bounds: tuple[float, ...], seeds: tuple[int, ...]) -> float:
    """P(|Z_k| ≥ bounds[k] for some k) without an effect.

    Args:
        bounds: [K], each at least 0.
        seeds: [K], rising numbers of effects at the evaluations.
    """
    node, weight = np.polynomial.legendre.leggauss(NODES)
    sums, mass, crossed, before = np.zeros(1), np.ones(1), 0.0, 0
    for bound, n in zip(bounds, seeds, strict=True):
        sd, edge = (n - before) ** 0.5, min(bound, HIGHEST) * n**0.5
        crossed += float(mass @ (ndtr((-edge - sums) / sd) + ndtr((sums - edge) / sd)))
        inside = edge * node
        mass = (norm.pdf(inside[:, None] - sums, scale=sd) @ mass) * weight * edge
        sums, before = inside, n
    return min(crossed, 1.0)


def student(z: float, n: int) -> float:
    """The quantile of Student's t on n − 1 degrees of freedom that leaves the tail of the normal quantile z."""
    return float(student_t.isf(ndtr(-z), n - 1))
