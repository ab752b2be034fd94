"""What the outcomes of the problems say: every number of the study, before it is put into tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from prefloop.advice import regret, trees
from prefloop.advice.features import COVERAGE, FEATURES, GEOMETRY
from prefloop.advice.gain import Correlation, ahead, correlations, on_policy_gain
from prefloop.advice.merit import by_switch
from prefloop.advice.outcomes import NO_GAIN, Outcome, tabulated
from prefloop.advice.regret import ADVISORS, LEAST, LEVEL, Calibration, Score
from prefloop.advice.table import Array, Table
from prefloop.advice.value import FLOOR, best_constant, best_value
from prefloop.analysis.statistics import Interval, bootstrap

FEWEST = 20  # problems with outcomes, for a test on left-out ones
DEPTH = 3
SIZES = (8, 16, 32, 64, 128, 256, 512)  # of the learning curve, as far as there are problems
CURVES = ("rule", "best constant", "nearest problem")  # whose regret is shown there
RULE, CONSTANT = CURVES[:2]
Curve: TypeAlias = Sequence[tuple[int, float, float]]


@dataclass(frozen=True)
class Count:
    """Problems of a world.

    Args:
        drawn: of the prior.
        no_gain, uncertain: dropped before training: nothing can be gained, or hardly more than the start is known by.
        trained: the others.
        alike: of these, how many have actions that cannot be told apart by their values, seen afterwards.
        low: how many have no action that keeps so much that regret has a meaning.
    """

    drawn: int
    no_gain: int
    uncertain: int
    trained: int
    alike: int
    low: int


@dataclass(frozen=True)
class Told:
    """How the rule and others advise on problems that they had not seen.

    Args:
        held_out: every advisor, on problems.
        corner: on the far problems with poor data, left out together.
        worlds: on worlds left out whole; empty if there is one.
        lead: what the best constant action loses more than the rule.
        ratio: regret of the rule over that of the best constant action.
        curves: of regret by the number of known problems, by advisor.
        slopes, errors: by feature and switch, see `merit.by_switch`.
        ways: the leaves of a small tree on all problems.
        gain: of on-policy sampling, [n].
        predictors: of that gain, the best first.
        ahead: by how much the first is better than the second.
    """

    default: str
    held_out: Mapping[str, Score]
    corner: Mapping[str, Score]
    worlds: Mapping[str, Score]
    lead: Interval
    ratio: Interval
    calibration: Calibration
    curves: Mapping[str, Curve]
    slopes: Array
    errors: Array
    ways: Sequence[trees.Way]
    gain: Array
    predictors: Sequence[Correlation]
    ahead: Interval


def counts(outcomes: Sequence[Outcome]) -> dict[str, Count]:
    """Problems by world and by what became of them."""
    out = {}
    for world in dict.fromkeys(one.problem.rpartition("-")[0] for one in outcomes):
        own = [one for one in outcomes if one.problem.startswith(f"{world}-")]
        trained = [one for one in own if one.results]
        no_gain = sum(one.no_headroom == NO_GAIN for one in own)
        best = best_value(tabulated(trained).values) if trained else np.zeros(0)
        out[world] = Count(
            *(len(own), no_gain, len(own) - len(trained) - no_gain, len(trained)),
            *(sum(bool(one.alike) for one in trained), int((best < FLOOR).sum())),
        )
    return out


def told(table: Table) -> Told:
    """Every advisor on left-out problems, and what decides.

    Raises:
        ValueError: too few problems.
    """
    if len(table) < FEWEST:
        raise ValueError(f"{len(table)} problems are too few for a test on left-out ones")
    held_out = regret.judged(table, ADVISORS)
    split = regret.worlds(table)
    gain = on_policy_gain(table)
    predictors = correlations(table, gain, (*GEOMETRY, *COVERAGE))
    slopes, errors = by_switch(table)
    return Told(
        best_constant(table),
        held_out,
        regret.judged(table, ADVISORS, regret.corner(table)),
        regret.judged(table, ADVISORS, split) if len(split) > 1 else {},
        regret.lead(held_out[RULE], held_out[CONSTANT]),
        ratio(held_out[RULE], held_out[CONSTANT]),
        regret.calibration(table),
        {name: regret.learning_curve(table, sizes(len(table)), ADVISORS[name]) for name in CURVES},
        slopes,
        errors,
        trees.paths(trees.grown(table.features, table.value, DEPTH, LEAST), tuple(FEATURES)),
        gain,
        predictors,
        ahead(table, gain, predictors[0].feature, predictors[1].feature),
    )


def ratio(one: Score, other: Score) -> Interval:
    """Mean regret of one advisor over that of another, on the same problems."""
    both = np.column_stack([one.each, other.each])

    def of(rows: Array) -> float:
        a, b = rows.mean(0)
        return float(a / b) if b > 0 else float("nan")

    return bootstrap(both[np.isfinite(both).all(1)], of, seed=0, level=LEVEL)


def sizes(n: int) -> list[int]:
    """Of the learning curve: doublings, and all problems that are not left out."""
    most = n - max(1, n // 5)
    return [*(size for size in SIZES if size <= 0.8 * most), most]


def doubling(curve: Curve) -> Curve:
    """The last point of a curve, after the last one with at most half as many problems."""
    return [next(point for point in reversed(curve) if point[0] <= curve[-1][0] / 2 or point is curve[0]), curve[-1]]


def plateau(curve: Curve) -> bool:
    """Whether the last doubling of the known problems brought less than its standard errors."""
    (_, before, some), (_, after, more) = doubling(curve)
    return before - after < float(np.hypot(some, more))


def by_influence(found: Told) -> list[tuple[str, Array, Array]]:
    """(feature, slopes, errors) of the switches that tell actions apart, those with the largest slopes first."""
    own = [(name, found.slopes[:, i], found.errors[:, i]) for i, name in enumerate(FEATURES)]
    return sorted(own, key=lambda row: -float((row[1] ** 2).sum()))
