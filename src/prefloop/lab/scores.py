"""Numbers of a run that a question compares: the share of what can be gained, a frontier, speed, and whether it broke.

The objective of all methods is J_β(π) = E gold − β KL(π‖π_ref). Its optimum, J*_β = β log E_ref exp(gold/β), and its
value at the reference, E_ref gold, are known to the world and are arguments here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefloop.core.errors import UserError
from prefloop.lab.climb import Mark
from prefloop.lab.stack import Run
from prefloop.lab.summary import over_training

Array = NDArray[np.float64]
GOLD, KL, SEEN = "eval/gold", "eval/kl_reverse_exact", "eval/reward"
FALL = 0.25  # of what can be gained, below the reference: clear of the noise of an evaluation


# -------------------------------------------------------------------------------------------------------------- share


@dataclass(frozen=True)
class Objective:
    """J_β with its value at the reference and its optimum.

    Raises:
        UserError: β is negative, or the optimum is not above the reference, so that nothing can be gained.
    """

    beta: float
    reference: float
    best: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf:
            raise UserError(f"β must be at least 0, not {self.beta!r}")
        if not -math.inf < self.reference < self.best < math.inf:
            what = f"J_β of the optimum, {self.best:g}, is not above that of the reference, {self.reference:g}"
            raise UserError(what, fix="another reward, or a smaller β: here nothing can be gained")

    def curve(self, run: Run, column: str = GOLD) -> Array:
        """Share of the attainable gain at each evaluation: 0 is the reference, 1 the optimum."""
        kl = self.beta * run.curves[KL] if self.beta else 0.0
        return np.asarray((run.curves[column] - kl - self.reference) / (self.best - self.reference))

    def end(self, run: Run) -> float:
        """The share at the end of training."""
        return float(self.curve(run)[-1])

    def early(self, run: Run, column: str = SEEN) -> float:
        """The share at the evaluation that looks best to its user, who sees a reward model's score where one trains.

        The first of equal ones counts; evaluations without a number are passed over. What is chosen by `eval/gold`
        itself is too high by the noise of an evaluation.
        """
        seen = self.curve(run, column)
        if not np.isfinite(seen).any():
            return math.nan
        return float(self.curve(run)[np.nanargmax(np.where(np.isfinite(seen), seen, np.nan))])


# ----------------------------------------------------------------------------------------------------------- frontier


def frontier(run: Run, limits: Sequence[float]) -> Array:
    """The best gold reward of a run while its KL from the reference is at most each limit.

    Between evaluations gold is linear in KL: where a run crosses the limit, it counts with the gold at the crossing.
    The best of many noisy evaluations is too high by their noise, alike for runs with the same evaluations. Evaluations
    without a number are passed over; nan where no evaluation is within the limit.
    """
    gold, kl = run.curves[GOLD], run.curves[KL]
    known = np.isfinite(gold) & np.isfinite(kl)
    gold, kl = gold[known], kl[known]
    out = []
    for limit in limits:
        within = list(gold[kl <= limit])
        sides = kl <= limit
        for i in np.flatnonzero(sides[:-1] != sides[1:]):
            part = (limit - kl[i]) / (kl[i + 1] - kl[i])
            within.append(gold[i] + part * (gold[i + 1] - gold[i]))
        out.append(max(within, default=math.nan))
    return np.array(out)


# -------------------------------------------------------------------------------------------------------------- speed


@dataclass(frozen=True)
class Speed:
    """What a run used until it reached a share of the attainable gain.

    Args:
        log2: base-2 logarithm of the number; of the horizon, if the share was not reached by then.
        censored: whether it was not.
    """

    log2: float
    censored: bool


def speed(run: Run, objective: Objective, share: float, horizon: float, column: str = "step") -> Speed:
    """When a run first reaches a share: log2 of steps, `samples` or `reward_queries`, at most log2 of the horizon.

    The number is the restricted one, log2 min(T, horizon): what it says of a run that does not reach the share is true,
    so its mean over seeds, and differences between cells with the same horizon, have no bias from censoring. They are
    not those of T, which nobody knows: report how many runs were censored beside them.

    Between two evaluations the share is linear in the logarithm; within the first interval, which begins at 0, its end
    counts. Less than one counts as one: a method that uses none has log2 = 0 if it reaches the share, and never reaches
    it otherwise.

    Raises:
        UserError: the run ended before the horizon without reaching the share: see `horizon`.
    """
    if not 0 < share <= 1 or not 1 <= horizon < math.inf:
        raise UserError(f"a share above 0 and up to 1 by a horizon of at least 1 is needed, not {share!r}, {horizon!r}")
    curve, used = objective.curve(run), np.log2(np.maximum(run.curves[column], 1.0))
    last, reached = math.log2(horizon), np.flatnonzero(curve >= share)
    if not len(reached):
        end = float(run.curves[column][-1])
        if 0 < end < horizon:
            what = f"a run ended after {end:g} of `{column}`, before the horizon of {horizon:g}"
            raise UserError(what, fix="use a horizon that all runs reach: `horizon` of lab.scores")
        return Speed(last, True)
    i = int(reached[0])
    at = float(used[i])
    if i > 1 and curve[i] > curve[i - 1]:  # not from a number to nothing
        at = float(used[i - 1] + (share - curve[i - 1]) / (curve[i] - curve[i - 1]) * (used[i] - used[i - 1]))
    return Speed(min(at, last), at > last)


def horizon(runs: Iterable[Run], column: str = "step") -> float:
    """The largest number that every run reaches, of those that use any; 1 if none does."""
    return min((end for run in runs if (end := run.last(column)) > 0), default=1.0)


# ------------------------------------------------------------------------------------------------------------- breaks


def start(run: Run) -> float:
    """Gold reward before the first step, which is the reference's."""
    return float(run.curves[GOLD][0])


def broke(run: Run, *, kl: float = math.inf, fall: float = FALL, at: int = -1) -> bool:
    """Whether a run broke: it diverged, its KL from the reference is too large, or its gold reward far below the start.

    Args:
        kl: nats beyond which a policy counts as broken; the question says which, since a far optimum is far away.
        fall: how far below the start, as a share of what can be gained over it (in units of the reward if no ceiling is
            known).
        at: the evaluation that is judged, the last one unless the score stops earlier.
    """
    ceiling, begin = run.setting.world.ceiling, start(run)
    unit = ceiling - begin if math.isfinite(ceiling) and ceiling > begin else 1.0
    gold, away = run.curves[GOLD][at], run.curves[KL][at] if KL in run.curves else 0.0
    lost = run.curves["diverged"][at] > 0 or not math.isfinite(gold) or math.isnan(away)
    return bool(lost or away > kl or gold < begin - fall * unit)


# ------------------------------------------------------------------------------------------------------------- tuning


@dataclass(frozen=True)
class Scoring:
    """What is kept of a tuning run.

    Args:
        score: the higher the better.
        broken: whether a run broke; see `broke`.
        reference: the score of the run's reference, which a broken run gets unless its own is lower.
    """

    score: Callable[[Run], float] = over_training
    broken: Callable[[Run], bool] = broke
    reference: Callable[[Run], float] = start

    def __call__(self, run: Run) -> Mark:
        score, reference = self.score(run), self.reference(run)
        if math.isfinite(score) and not self.broken(run):
            return Mark(score, False)
        return Mark(min(score, reference) if math.isfinite(score) else reference, True)


GOLD_OVER_TRAINING = Scoring()
