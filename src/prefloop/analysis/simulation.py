"""The coverage of the whole procedure, by simulation: tune each cell, then decide its claim seed by seed.

A population is a table [rates, seeds] of each cell: drawn from a model (`cell`), or runs of a store. Tuning and
decision draw columns of their own, with replacement; cells share the columns, as runs share prompts, data and noise.
The effect to be covered is the expected one: of the procedure's own choices, averaged over tunings.

Coverage in percent, lowest to highest over planted effects of 0, ½, 2 and 3 thresholds; thresholds of 0.1 to 1 standard
deviations without tuning, rates from all alike to far apart with it; tests/analysis/test_simulation.py asserts it:

| noise of the cells | bootstrap, n = 10 | one rate | tuned | on 2 seeds, bootstrap | 7@2 → 3@4 | 7@2 → 3@12 |
|---|---|---|---|---|---|---|
| normal, both | 90 | 95–97 | | 77–89 | 88–99 | 93–98 |
| exponential, both | 90 | 95–96 | | 76–89 | 89–99 | 94–98 |
| mixture of two normals, both | 89 | 95–96 | | 75–89 | 90–99 | 93–98 |
| one run in ten breaks, both | 88 | 95–97 | | 77–87 | 87–99 | 93–99 |
| exponential, one cell | 88 | 93–96 | | | | |
| one run in ten breaks, one cell | 67 | 75–98 | | | | |

7@2 → 3@4: seven rates on two seeds, the best three on four. With `choice_se`; without it 7@2 → 3@12 covers 88–96 and
7@2 → 3@4 79–96. 97 is exceeded where all rates are alike, and a last stage on 4 seeds is too short: it misses where two
rates differ by as much as the noise of its means. One cell that breaks cannot be covered (`decisions`): its share of
broken runs is the outcome. Given the rates that were chosen, intervals without `choice_se` cover 95–96 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefloop.analysis.choice import choice_se
from prefloop.analysis.decisions import REGIONS, Rule, ends, words

Array: TypeAlias = NDArray[np.float64]
Tune: TypeAlias = Callable[[Array], tuple[int, float]]  # scores [rates, seeds] -> rate, standard error of its choice
Noise: TypeAlias = Callable[[np.random.Generator, tuple[int, ...]], Array]


@dataclass(frozen=True)
class Outcome:
    """What the procedure does on a population.

    Args:
        coverage: share of repetitions whose reported interval holds the expected effect.
        given_choice: share whose interval holds the effect of the rates that were chosen.
        wrong: share whose verdict is false of the expected effect.
        verdicts: share of each verdict.
        seeds: mean number of seeds at the stop.
        repeats: number of repetitions.
    """

    coverage: float
    given_choice: float
    wrong: float
    verdicts: Mapping[str, float]
    seeds: float
    repeats: int

    def error(self, share: float) -> float:
        """Monte Carlo standard error of a share."""
        return float(np.sqrt(share * (1 - share) / self.repeats))


def simulate(
    cells: Sequence[ArrayLike],
    rule: Rule,
    *,
    planted: float,
    weights: Sequence[float] = (1.0, -1.0),
    tune: Tune | None = None,
    tuning: int = 12,
    repeats: int = 2000,
    seed: int = 0,
) -> Outcome:
    """Repeat tuning and decision on a population.

    Args:
        cells: [rates, seeds] of each cell.
        planted: the expected effect: a constant is added to the population's own.
        weights: the claim's weight of each cell.
        tune: the choice of a rate; None takes the first.
        tuning: number of tuning seeds.
    """
    tables = [np.asarray(x, dtype=np.float64) for x in cells]
    rng, columns = np.random.default_rng(seed), tables[0].shape[1]
    learn, judge = (rng.integers(columns, size=(repeats, n)) for n in (tuning, rule.most))
    effects, truth, variance = np.zeros(judge.shape), np.zeros(repeats), np.zeros(repeats)
    for weight, table in zip(weights, tables, strict=True):
        tuned = [tune(table[:, row]) if tune else (0, 0.0) for row in learn]
        rate, se = np.array([r for r, _ in tuned]), np.array([s for _, s in tuned])
        effects += weight * table[rate[:, None], judge]
        truth += weight * table.mean(1)[rate]
        variance += (weight * se) ** 2
    shift = planted - truth.mean()
    low, high, n = _sequential(effects + shift, rule, np.sqrt(variance))
    verdict = words(low, high, rule)
    true = [(word, a * rule.threshold < planted < b * rule.threshold) for word, a, b in REGIONS[rule.sense]]
    right = {word for word, holds in true if holds} | {"undecided"}
    return Outcome(
        coverage=float(((low <= planted) & (planted <= high)).mean()),
        given_choice=float(((low <= truth + shift) & (truth + shift <= high)).mean()),
        wrong=float((~np.isin(verdict, list(right))).mean()),
        verdicts={str(word): float((verdict == word).mean()) for word in np.unique(verdict)},
        seeds=float(n.mean()),
        repeats=repeats,
    )


def _sequential(effects: Array, rule: Rule, se: Array) -> tuple[Array, Array, Array]:
    """Ends of the reported interval and number of seeds of each repetition.

    Args:
        effects: [repeats, most].
        se: [repeats], from the choice of rates.
    """
    low, high, seeds = (np.full(len(effects), np.nan) for _ in range(3))
    for n in rule.boundaries.seeds:
        open_ = np.flatnonzero(np.isnan(seeds))
        x, s = effects[open_, :n], se[open_]
        over = (words(*ends(x, rule.boundaries.at(n), s), rule) != "undecided") | (n == rule.most)
        done = open_[over]
        low[done], high[done] = ends(x[over], rule.boundaries.last, s[over])
        seeds[done] = n
    return low, high, seeds


def halving(scores: Array, *, keep: int = 3, first: int = 2, nested: bool = True) -> tuple[int, float]:
    """Successive halving in two stages: the best `keep` rates on the first seeds, the best of these on all.

    Args:
        scores: [rates, seeds].
        nested: whether the standard error of the choice is estimated; else it is taken as 0.
    """
    finalists = np.argsort(-scores[:, :first].mean(1), kind="stable")[:keep]
    last = scores[finalists]
    return int(finalists[last.mean(1).argmax()]), choice_se(last, n=100) if nested else 0.0


NOISE: dict[str, Noise] = {  # mean 0, standard deviation about 1
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: 1 - rng.exponential(size=shape),
    "mixture": lambda rng, shape: 0.5 * rng.normal(size=shape) + np.where(rng.random(shape) < 0.2, 1.6, -0.4),
    "one in ten breaks": lambda rng, shape: 0.3 * rng.normal(size=shape) + 0.3 - 3.0 * (rng.random(shape) < 0.1),
}


def cell(
    noise: str,
    *,
    rates: int = 7,
    best: float = 3.0,
    curvature: float = 0.1,
    shared: float = 0.0,
    common: float | Array = 0.0,
    seeds: int = 4000,
    seed: int = 0,
) -> Array:
    """A cell [rates, seeds] whose mean falls as curvature · (rate − best)².

    Args:
        shared: share of the variance that comes from `common`, [seeds], the noise of the seed itself.
    """
    own = NOISE[noise](np.random.default_rng(seed), (rates, seeds))
    own -= own.mean(1, keepdims=True)
    mean = -curvature * (np.arange(rates) - best) ** 2
    return mean[:, None] + np.sqrt(1 - shared) * own + np.sqrt(shared) * common
