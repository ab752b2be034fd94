"""The outcome of a run: how much gold it gains within a budget of KL(π‖π_ref) per response.

A run is a curve of gold against KL, straight between its evaluations. Its user keeps the best policy within the budget:
the score is the largest gain where KL ≤ budget, whether the curve stays there, crosses the budget or never reaches it.
What it loses beyond the budget does not matter, and as the reference may be kept, no score is below 0.

KL is the k1 estimate, the mean of d = log π − log π_ref over answers of π. k3 = d + e^(−d) − 1 varies less near the
reference, but at a few nats the mean of e^(−d), which is 1, is carried by answers too rare to be among 40: k3 would
read up to one nat too low, and now and then far too high.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from prefloop.report.chart import Array


@dataclass(frozen=True)
class Course:
    """What the evaluations of a run measured, the one before training first.

    Args:
        steps: [E].
        prompts: [N].
        gold: [E, N], of the answer to each held-out prompt.
        log_ratio: [E, N], log π − log π_ref of the same answers.
    """

    steps: list[int]
    prompts: list[str]
    gold: Array
    log_ratio: Array


@dataclass(frozen=True)
class Place:
    """A place on a curve: a share of the way from one evaluation to another, or to itself."""

    before: int
    after: int
    share: float = 0.0

    def of(self, values: Array) -> Array:
        """A quantity there; values [E, ...]."""
        return np.asarray(values[self.before] + self.share * (values[self.after] - values[self.before]))


def best(kl: Array, gain: Array, budget: float) -> Place:
    """The first place with the largest gain where KL ≤ budget: an evaluation, or where the curve crosses the budget.

    Args:
        kl, gain: [E]; the first is that of the reference.

    Raises:
        ValueError: not one KL per gain, a number that is not finite, or no evaluation within the budget.
    """
    if kl.shape != gain.shape or kl.ndim != 1 or not np.isfinite([kl, gain]).all():
        raise ValueError("a curve needs one finite KL and one finite gain for each evaluation")
    inside = [Place(i, i) for i, x in enumerate(kl) if x <= budget]
    if not inside:
        raise ValueError(f"no evaluation is within {budget} nats")
    ends = enumerate(pairwise(kl.tolist()))
    crossings = [Place(i, i + 1, (budget - a) / (b - a)) for i, (a, b) in ends if min(a, b) < budget < max(a, b)]
    return max(sorted([*inside, *crossings], key=lambda p: p.before + p.share), key=lambda p: float(p.of(gain)))


def gains(course: Course, budget: float, sd: float) -> dict[str, float]:
    """The score as a mean over prompts: what each of them adds to it, in standard deviations of gold.

    Where the curve crosses the budget, the place depends on KL, which is a mean over the same prompts. To first order a
    prompt with one nat more than the budget moves the score by minus the slope of the curve:

        gain_p − slope · (KL_p − budget), slope = Δ gain / Δ KL between the two evaluations.

    The mean is the score, and the spread over prompts has the uncertainty of both gold and KL.
    """
    gain, kl = (course.gold - course.gold[0]) / sd, course.log_ratio
    place = stop(course, budget)
    each = place.of(gain)
    if place.before != place.after:
        rise, run = (x[place.after].mean() - x[place.before].mean() for x in (gain, kl))
        each = each - rise / run * (place.of(kl) - budget)
    return dict(zip(course.prompts, each.tolist(), strict=True))


def stop(course: Course, budget: float) -> Place:
    """Where the user of a run with a budget would stop."""
    return best(course.log_ratio.mean(1), (course.gold - course.gold[0]).mean(1), budget)


def score(course: Course, budget: float, sd: float) -> float:
    """The largest gain within the budget, in standard deviations of gold."""
    return float(np.mean([*gains(course, budget, sd).values()]))
