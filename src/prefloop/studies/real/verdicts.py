"""The words of `analysis.decisions` for runs with several seeds that answer the same prompts.

The interval is `compare.crossed`, over seeds and prompts: it is about the next seed and the next prompt. All else is as
in `decide`: regions, boundaries, edges, headroom, and the error of chosen learning rates, added in quadrature.

With three seeds, and prompts that all agree, Student's t has two degrees of freedom: the interval is ±2.5 standard
deviations of a seed's effect. A large effect can be decided so, and equivalence only if seeds hardly differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import t as student

from prefloop.analysis.compare import LEAST_SEEDS, Scores, crossed
from prefloop.analysis.decisions import REGIONS, SHOWN, Decision, Rule, Verdict, words
from prefloop.analysis.numbers import compact
from prefloop.analysis.statistics import Interval

FARTHEST = 8.0  # normal quantile up to which p is computed
Half = Callable[[float], float]  # half the width of the interval at a normal quantile


def decision(
    a: Scores, b: Scores, rule: Rule, *, choice_se: float = 0.0, edge: Sequence[str] = (), no_headroom: str = ""
) -> Decision:
    """The verdict on the effect a − b.

    Args:
        a, b: seed -> prompt -> what the prompt adds to the score of that seed's run.
        rule, choice_se, edge, no_headroom: as for `decisions.decide`; the rule counts seeds.

    Raises:
        ValueError: fewer than three seeds in common, or as for `crossed`.
    """
    seeds = len(a.keys() & b.keys())
    if seeds < LEAST_SEEDS:
        raise ValueError(f"a verdict needs {LEAST_SEEDS} seeds, not {seeds}")
    seen, bounds = crossed(a, b), rule.boundaries

    def half(z: float) -> float:
        spread = float(student.isf(ndtr(-z), seen.df)) * seen.se if seen.se > 0 else math.inf
        return math.hypot(spread, z * choice_se)

    def word(z: float) -> Verdict:
        said: Verdict = words(seen.value - half(z), seen.value + half(z), rule).item()
        return said

    over, verdict = seeds >= rule.most or word(bounds.at(seeds)) != "undecided", word(bounds.last)
    low, high = seen.value - half(bounds.last), seen.value + half(bounds.last)
    reason = f"the effect may be anything from {compact(low)} to {compact(high)}"
    if edge:
        verdict, reason = "undecided", f"the best learning rate is at an edge of the range: {', '.join(edge)}"
    elif no_headroom:
        verdict, reason = "no headroom", no_headroom
    elif not over:
        verdict, reason = "undecided", f"more seeds are wanted: {seeds} so far, of {rule.first} to {rule.most}"
    elif verdict != "undecided":
        reason = SHOWN[rule.sense, verdict].format(t=compact(rule.threshold))
    regions = [(x * rule.threshold, y * rule.threshold) for said, x, y in REGIONS[rule.sense] if said == verdict]
    return Decision(
        verdict,
        reason,
        Interval(seen.value, low, high, rule.level, seeds),
        p=bounds.p(clearance(seen.value, half, [(0.0, math.inf), (-math.inf, 0.0)])),
        p_verdict=bounds.p(clearance(seen.value, half, regions)),
        settled=over or bool(edge),
    )


def clearance(value: float, half: Half, regions: Sequence[tuple[float, float]]) -> float:
    """The largest normal quantile at which the interval is inside one of the regions; 0 if there is none."""
    rooms = [min(value - low, high - value) for low, high in regions]
    return max((_reach(room, half) for room in rooms if room > 0), default=0.0)


def _reach(room: float, half: Half) -> float:
    """The quantile at which half the interval is as wide as that."""
    if half(FARTHEST) <= room:
        return FARTHEST
    return 0.0 if half(0.0) >= room else float(brentq(lambda z: half(z) - room, 0.0, FARTHEST))
