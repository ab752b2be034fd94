"""What advice costs against the best action, on problems that it had not seen; beside simple rules and published ones.

Where nothing is sure, the rule's advice counts as the default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from prefloop.advice import trees
from prefloop.advice.actions import ACTIONS
from prefloop.advice.fit import PARTS, fitted
from prefloop.advice.merit import parts, placed, standardised
from prefloop.advice.rule import Rule, Status
from prefloop.advice.table import Array, Places, Table
from prefloop.advice.value import best_constant, regret
from prefloop.analysis.statistics import Interval, bootstrap

LEAST = 8  # problems in a leaf of a tree
LEVEL = 0.95

Advisor: TypeAlias = Callable[[Table, Table], Array]  # what is known, problems -> weights of the actions, [n, A]
Folds: TypeAlias = Sequence[tuple[Places, Places]]


# ------------------------------------------------------------------------------------------------------------ regret


@dataclass(frozen=True)
class Score:
    """An advisor on problems that it had not seen.

    Args:
        regret: mean, with its interval over problems.
        worst: 90th percentile.
        good: share of the problems with a regret of at most 0.05.
        each: [n], nan where regret has no meaning.
    """

    regret: Interval
    worst: float
    good: float
    each: Array


def scored(each: Array) -> Score:
    """Regrets of one advisor."""
    some = each[np.isfinite(each)]
    if not len(some):
        nothing = float("nan")
        return Score(Interval(nothing, nothing, nothing, LEVEL, 0), nothing, nothing, each)
    over = bootstrap(some, seed=0, level=LEVEL)
    return Score(over, float(np.quantile(some, 0.9)), float((some <= 0.05).mean()), each)


def judged(table: Table, advisors: Mapping[str, Advisor], folds: Folds | None = None) -> dict[str, Score]:
    """Every advisor on the problems that were left out; those that are in no test part are not scored."""
    folds = parts(len(table), PARTS) if folds is None else folds
    out = {}
    for name, advisor in advisors.items():
        each = np.full(len(table), np.nan)
        for train, test in folds:
            each[test] = regret(table.values[test], advisor(table[train], table[test]))
        out[name] = scored(each)
    return out


def lead(one: Score, other: Score) -> Interval:
    """How much more the other one loses, on the same problems."""
    gap = other.each - one.each
    return bootstrap(gap[np.isfinite(gap)], seed=0, level=LEVEL)


# ---------------------------------------------------------------------------------------------------------- advisors


def picks(places: Sequence[int] | Places, actions: int) -> Array:
    """One action for each problem as weights."""
    return np.asarray(np.eye(actions)[np.asarray(places, dtype=np.intp)])


def always(action: str) -> Advisor:
    return lambda train, test: picks([test.actions.index(action)] * len(test), len(test.actions))


def constant(train: Table, test: Table) -> Array:
    """The best constant action of what is known."""
    return always(best_constant(train))(train, test)


def random(train: Table, test: Table) -> Array:
    return np.full(test.value.shape, 1 / len(test.actions))


def oracle(train: Table, test: Table) -> Array:
    """The best action by all seeds, which nobody knows beforehand."""
    return picks(test.value.argmax(1), len(test.actions))


def ruled(train: Table, test: Table) -> Array:
    """The rule of this package."""
    rule = fitted(train)
    return picks([test.actions.index(rule.choose(x)[0]) for x in test.features], len(test.actions))


def first(train: Table, test: Table) -> Array:
    """The action that the rule predicts to be the best, sure or not."""
    rule = fitted(train)
    return picks([int(rule.merits(x)[0].argmax()) for x in test.features], len(test.actions))


def neighbour(train: Table, test: Table) -> Array:
    """What was best on the nearest problem, in standardised features."""
    z, mean, scale = standardised(train.features)
    other = placed(test.features, mean, scale)
    nearest = ((other[:, None] - z[None]) ** 2).sum(-1).argmin(1)
    return picks(train.value[nearest].argmax(1), len(test.actions))


def tree(train: Table, test: Table) -> Array:
    """A tree of depth 3 whose leaves are actions."""
    grown = trees.grown(train.features, train.value, 3, LEAST)
    return picks(trees.predicted(grown, test.features).argmax(1), len(test.actions))


def boosted(train: Table, test: Table) -> Array:
    """Boosted trees: what more flexible fits could reach."""
    z, mean, scale = standardised(train.features)
    predicted = trees.summed(trees.boosted(z, train.value), placed(test.features, mean, scale))
    return picks(predicted.argmax(1), len(test.actions))


def by_feature(name: str, above: float, then: str, otherwise: str) -> Advisor:
    """One action where a feature is above a number, another elsewhere and where it is not known."""

    def advisor(train: Table, test: Table) -> Array:
        high = test.features[:, test.names.index(name)] > above
        return picks(np.where(high, test.actions.index(then), test.actions.index(otherwise)), len(test.actions))

    return advisor


AXOLOTL = by_feature("learned", 0.5, "dpo-offline", "rloo")
"""axolotl's choosing_method.qmd decides by the form of the data: a reward function → GRPO (here RLOO, the nearest of
the actions), preferences → DPO."""

VERBAL = by_feature("beyond", 0.0, "dpo", "best-of-n-offline")
"""Tajwar et al. 2024, Fig. 1 and § 6: far peaks ask for on-policy samples and a negative gradient, near ones do not.
The paper gives no number for far; here the optimum is far if 64 samples to a prompt cannot show it."""

STAGE = by_feature("votes", 0.5, "dpo", "dpo-offline")
"""The stage boundary of arXiv 2508.10530: on-policy once the policy's own responses win half of the comparisons."""

ADVISORS: dict[str, Advisor] = {
    "rule": ruled,
    "the rule's first, sure or not": first,
    "tree of depth 3": tree,
    "boosted trees": boosted,
    "nearest problem": neighbour,
    "best constant": constant,
    "axolotl's decision tree": AXOLOTL,
    "the paper's Fig. 1": VERBAL,
    "stage boundary (2508.10530)": STAGE,
    "random": random,
    "oracle": oracle,
    **{f"always {name}": always(name) for name in ACTIONS},
}


# ----------------------------------------------------------------------------------------------------------- held out


def worlds(table: Table) -> Folds:
    """Each world left out in turn."""
    names = np.array(table.worlds)
    return [(np.flatnonzero(names != w), np.flatnonzero(names == w)) for w in dict.fromkeys(table.worlds)]


def corner(table: Table, far: str = "beyond", poor: str = "winner_short") -> Folds:
    """Problems that are far and whose data are poor, each above its median, left out together."""
    columns = [table.features[:, table.names.index(name)] for name in (far, poor)]
    inside = np.all([column > np.nanmedian(column) for column in columns], axis=0)
    return [(np.flatnonzero(~inside), np.flatnonzero(inside))]


# -------------------------------------------------------------------------------------------------- is it worth it?


def learning_curve(
    table: Table, sizes: Sequence[int], advisor: Advisor = ruled, *, repeats: int = 10, seed: int = 0
) -> list[tuple[int, float, float]]:
    """Mean regret on a fifth of the problems, by the number of others that are known: (size, mean, standard error over
    repeats, each with its own split)."""
    rng, out = np.random.default_rng(seed), []
    held = max(1, len(table) // 5)
    orders = [rng.permutation(len(table)) for _ in range(repeats)]
    for size in sizes:
        each = []
        for order in orders:
            test, train = order[:held], order[held : held + size]
            each.append(float(np.nanmean(regret(table.values[test], advisor(table[train], table[test])))))
        out.append((size, float(np.mean(each)), float(np.std(each, ddof=1) / np.sqrt(repeats))))
    return out


@dataclass(frozen=True)
class Calibration:
    """The rule on problems that it had not seen.

    Args:
        coverage: share of the values in their interval.
        level: of the interval.
        abstains: share of the problems for which nothing was advised.
        right: share of the advised departures from the default that were better than it; nan if there were none.
    """

    coverage: float
    level: float
    abstains: float
    right: float


def calibration(table: Table, folds: Folds | None = None) -> Calibration:
    """Coverage of the intervals, abstention, and how often a departure from the default was right."""
    inside, unsure, right, level = [], [], [], 0.0
    for train, test in parts(len(table), PARTS) if folds is None else folds:
        rule, some = fitted(table[train]), table[test]
        level = rule.level
        inside += list((np.abs(rule.values(some.features) - some.value) <= rule.width).ravel())
        base = table.actions.index(rule.default)
        for x, value in zip(some.features, some.value, strict=True):
            action, sure = rule.choose(x)
            unsure.append(not sure)
            if action != rule.default:
                right.append(value[table.actions.index(action)] > value[base])
    return Calibration(
        float(np.mean(inside)), level, float(np.mean(unsure)), float(np.mean(right)) if right else float("nan")
    )


def tested(table: Table, minimum: int = Status.minimum, advisors: Mapping[str, Advisor] = ADVISORS) -> Status:
    """How the rule does on left-out problems: what a shipped rule states of itself."""
    scores, seen = judged(table, {"rule": ruled, "best constant": constant, **advisors}), calibration(table)
    return Status(
        problems=len(table),
        minimum=minimum,
        beats=bool(lead(scores["rule"], scores["best constant"]).low > 0),
        regret={k: (s.regret.value, s.regret.low, s.regret.high) for k, s in scores.items()},
        coverage=seen.coverage,
        abstains=seen.abstains,
        worlds={world: table.worlds.count(world) for world in dict.fromkeys(table.worlds)},
    )


def shipped(table: Table, minimum: int = Status.minimum) -> Rule:
    """The rule on all problems, with how it did on those that were left out: what goes into rule.json."""
    return fitted(table, tested(table, minimum))
