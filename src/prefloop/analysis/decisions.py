"""Verdicts on paired effects that arrive in blocks of seeds: when to stop, the interval to report, and its word.

**Interval** (`ends`). The mean of n paired effects has Student's t interval, widened at either end to Hall's (1992)
interval, which removes skewness by a monotone cubic transformation. Chosen by simulation at n = 12: t alone covers 95
to 98 % where both cells have the same noise, since differences of alike variables are symmetric, but 90 % for an
exponential; Hall's alone 94 %, but 91 % where one run in ten of either cell breaks; the percentile bootstrap covers 86
to 90 %, BCa 78 to 90 %, the bootstrap-t 88 to 95 %. The wider of the first two is 1 % wider than t on normal effects.

**Stopping** (`stop`). After `first`, `first + block`, … effects a study stops if the interval at that evaluation's
boundary has a word. Boundaries are O'Brien and Fleming's, computed, not simulated: see `boundaries`.

**Report** (`decide`). At any stop the interval has the constant of the last boundary, 2.005 for the default rule: wider
than 1.96, narrower than the boundary before the end. Each word but "undecided" says that the effect lies in a region,
and is true if the interval covers the effect; so one coverage, of the whole procedure with its stops, bounds every
error. Coverage is measured in `simulation`. It is far below 95 % where one cell breaks in one run of ten and the other
never does: 28 of 100 studies see no break in twelve runs, and no interval can contain what has not been seen. There
the share of broken runs is an outcome of its own (`breaks`).

**Choice of the learning rate.** Effects at one chosen rate say nothing on what another choice would have given.
`choice_se` is the standard error of the effect from the choice (`choice.choice_se` of each cell, summed in squares); it
is added in quadrature, and more seeds do not reduce it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import false_discovery_control

from prefloop.analysis.boundaries import HIGHEST, Boundaries, boundaries, student
from prefloop.analysis.compare import LEVEL, ROUNDING
from prefloop.analysis.numbers import compact
from prefloop.analysis.statistics import Interval

Array: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = float | Array  # one number, or an array of them
Sense: TypeAlias = Literal["more", "equal"]
Verdict: TypeAlias = Literal[
    "supported", "smaller than claimed", "equivalent", "contradicted", "undecided", "no headroom"
]

# Regions of the effect in units of the threshold; the first one that holds the interval gives the verdict.
REGIONS: dict[Sense, tuple[tuple[Verdict, float, float], ...]] = {
    "more": (
        ("supported", 1.0, math.inf),
        ("smaller than claimed", 0.0, 1.0),
        ("equivalent", -1.0, 1.0),
        ("contradicted", -math.inf, 0.0),
    ),
    "equal": (("supported", -1.0, 1.0), ("contradicted", 1.0, math.inf), ("contradicted", -math.inf, -1.0)),
}

SHOWN: dict[tuple[Sense, Verdict], str] = {
    ("more", "supported"): "the effect is above {t}",
    ("more", "smaller than claimed"): "the effect is positive, but below {t}",
    ("more", "equivalent"): "the effect is between −{t} and {t}",
    ("more", "contradicted"): "the effect is negative",
    ("equal", "supported"): "the effect is between −{t} and {t}",
    ("equal", "contradicted"): "the effect is larger than {t}, in one direction or the other",
}


@dataclass(frozen=True)
class Rule:
    """How a claim is decided, fixed before the first run.

    Args:
        threshold: the smallest effect that matters, above 0.
        block: number of seeds that are added at a time.
        first, most: number of seeds at the first evaluation and at the last.
        level: confidence level of the whole procedure.
        sense: `more` if the paper says that the effect is positive, `equal` if it says that there is none.
    """

    threshold: float
    block: int = 4
    first: int = 12
    most: int = 40
    level: float = LEVEL
    sense: Sense = "more"

    def __post_init__(self) -> None:
        if not 0 < self.threshold < math.inf:
            raise ValueError(f"a threshold must be a finite number above 0, not {self.threshold}")
        if self.block < 1 or not 2 <= self.first <= self.most or (self.most - self.first) % self.block:
            seeds = f"from {self.first} to {self.most} in blocks of {self.block}"
            raise ValueError(f"seeds must rise from 2 or more to the largest number in whole blocks, not {seeds}")
        if not 0.5 <= self.level < 1:
            raise ValueError(f"a confidence level must be at least 0.5 and below 1, not {self.level}")
        if self.sense not in get_args(Sense):
            raise ValueError(f"a claim's sense is more or equal, not {self.sense}")

    @cached_property
    def boundaries(self) -> Boundaries:
        return boundaries(tuple(range(self.first, self.most + 1, self.block)), self.level)


@dataclass(frozen=True)
class Decision:
    """What the effects say about a claim.

    Args:
        verdict: its word.
        reason: why, in words.
        interval: mean effect, its interval at the stop, number of seeds.
        p: of no effect, two-sided, valid with the stops; at most 1 − level if the interval excludes 0.
        p_verdict: the smallest 1 − level with this verdict, 1 if there is none: what `false_discovery` adjusts.
        settled: whether the study is over: more seeds are not wanted, or cannot change the verdict.
    """

    verdict: Verdict
    reason: str
    interval: Interval
    p: float
    p_verdict: float
    settled: bool

    @property
    def n(self) -> int:
        return self.interval.units

    @property
    def sign(self) -> int:
        """1 or −1 if the interval lies above or below 0, else 0."""
        return int(self.interval.low > 0) - int(self.interval.high < 0)


def decide(
    effects: ArrayLike, rule: Rule, *, choice_se: float = 0.0, edge: Sequence[str] = (), no_headroom: str = ""
) -> Decision:
    """The verdict on a claim after n seeds.

    Args:
        effects: [n], the claim's effect for each seed.
        choice_se: standard error of the effect from the choice of learning rates.
        edge: cells whose tuning optimum stayed at an edge of the range: they cannot enter a verdict.
        no_headroom: reason why nothing can be seen here (`headroom`), or nothing.

    Raises:
        ValueError: fewer than two effects, or one that is not finite.
    """
    x, bounds = finite(effects), rule.boundaries
    low, high = (float(end) for end in ends(x, bounds.last, choice_se))
    over = stop(x, rule, choice_se=choice_se)
    verdict, reason = _verdict(low, high, rule, bounds.last * choice_se)
    if edge:
        verdict, reason = "undecided", f"the best learning rate is at an edge of the range: {', '.join(edge)}"
    elif no_headroom:
        verdict, reason = "no headroom", no_headroom
    elif not over:
        verdict, reason = (
            "undecided",
            f"more seeds are wanted: {len(x)} so far, of {rule.first} to {rule.most}",
        )
    t = rule.threshold
    regions = [(a * t, b * t) for word, a, b in REGIONS[rule.sense] if word == verdict]
    return Decision(
        verdict,
        reason,
        Interval(float(x.mean()), low, high, rule.level, len(x)),
        p=bounds.p(_clearance(x, [(0.0, math.inf), (-math.inf, 0.0)], choice_se)),
        p_verdict=bounds.p(_clearance(x, regions, choice_se)),
        settled=over or bool(edge),
    )


def stop(effects: ArrayLike, rule: Rule, *, choice_se: float = 0.0) -> bool:
    """Whether no more seeds are wanted: there are `most`, or the wide interval of this evaluation has a word.

    Args:
        effects, choice_se: see `decide`.

    Raises:
        ValueError: as `decide`.
    """
    x = finite(effects)
    if len(x) < rule.first or len(x) >= rule.most:
        return len(x) >= rule.most
    return bool(words(*ends(x, rule.boundaries.at(len(x)), choice_se), rule) != "undecided")


def ends(effects: Array, z: float, choice_se: Numbers = 0.0) -> tuple[Numbers, Numbers]:
    """The ends of the interval for the mean effect: Student's t, each end widened to Hall's.

    Hall (1992): with T = (x̄ − μ)/s and skewness γ, √n (T + γT²/3 + γ²T³/27 + γ/(6n)) is normal to order 1/n; it is
    inverted in closed form. Here its quantile is Student's. If all n effects are equal, their spread is no estimate:
    the interval is that number if n equal signs are as unlikely as z (2^(1−n), the sign test), else the whole line.

    Args:
        effects: [..., n].
        z: normal quantile of the level, for example a boundary.
        choice_se: [...], standard error from the choice of learning rates, added in quadrature.
    """
    n = effects.shape[-1]
    mean, spread = effects.mean(-1), effects.std(-1, ddof=1)
    same = spread <= ROUNDING * np.abs(effects).max(-1)
    sd = np.where(same, 1.0, spread)
    skew = (((effects - mean[..., None]) / sd[..., None]) ** 3).mean(-1)
    skew = np.where(np.abs(skew) < 1e-6, 1e-6, skew)  # the limit is T itself
    t = student(z, n) / math.sqrt(n)

    def hall(t: float) -> Numbers:
        return 3 / skew * (np.cbrt(1 + skew * (t - skew / (6 * n))) - 1)

    none = 0.0 if 2.0 ** (1 - n) <= 2 * ndtr(-z) else math.inf
    below, above = (np.where(same, none, sd * np.maximum(t, width)) for width in (hall(t), -hall(-t)))
    choice = z * choice_se
    return mean - np.hypot(below, choice), mean + np.hypot(above, choice)


def words(low: Numbers, high: Numbers, rule: Rule) -> NDArray[Any]:
    """The verdict on each interval.

    Args:
        low, high: [...], ends of the intervals.
    """
    regions = REGIONS[rule.sense]
    inside = [(low > a * rule.threshold) & (high < b * rule.threshold) for _, a, b in regions]
    return np.select(inside, [word for word, _, _ in regions], "undecided")


@dataclass(frozen=True)
class Adjusted:
    """A p value adjusted for the number of claims: the least false discovery rate at which it is a discovery."""

    bh: float  # Benjamini & Hochberg (1995): independent or positively dependent claims
    by: float  # Benjamini & Yekutieli (2001): any dependence


def false_discovery(p: Mapping[str, float]) -> dict[str, Adjusted]:
    """Adjusted p values of all claims that were tested, undecided ones included.

    Args:
        p: `Decision.p_verdict` of each claim: then the rate is that of false verdicts among those given.

    Raises:
        ValueError: a p value outside [0, 1].
    """
    values = list(p.values())
    both = (false_discovery_control(values, method=method) if values else [] for method in ("bh", "by"))
    return {name: Adjusted(float(bh), float(by)) for name, bh, by in zip(p, *both, strict=True)}


def _clearance(x: Array, regions: Sequence[tuple[float, float]], choice_se: float) -> float:
    """The largest quantile z at which the interval is inside one of the regions; 0 if there is none."""

    def room(z: float, region: tuple[float, float]) -> float:
        low, high = ends(x, z, choice_se)
        return -1.0 if np.isinf(low) or np.isinf(high) else float(min(low - region[0], region[1] - high, 1.0))

    widest = 0.0
    for region in regions:
        if room(HIGHEST, region) > 0:
            return HIGHEST
        if room(0.0, region) > 0:
            widest = max(widest, float(brentq(room, 0.0, HIGHEST, args=(region,))))
    return widest


def _verdict(low: float, high: float, rule: Rule, choice: float) -> tuple[Verdict, str]:
    """The verdict on an interval, and what the interval shows in words.

    Args:
        choice: half of the width that the interval would have if only the choice of learning rates were uncertain.
    """
    verdict: Verdict = words(low, high, rule).item()
    t = compact(rule.threshold)
    if verdict != "undecided":
        return verdict, SHOWN[rule.sense, verdict].format(t=t)
    sign = "positive" if low > 0 else "negative" if high < 0 else "of unknown sign"
    side = t if low > 0 else f"−{t}" if high < 0 else f"±{t}"
    why = f", ±{compact(choice)} from the choice of learning rates" if 4 * choice > high - low else ""
    return verdict, f"the effect is {sign}, and may lie on either side of {side}{why}"


def finite(effects: ArrayLike) -> Array:
    x = np.asarray(effects, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError("effects must be a list of two or more finite numbers, one per seed")
    return x
