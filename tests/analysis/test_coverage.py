"""The whole procedure by simulation: coverage, false verdicts, power; fixed seeds, tolerance of the simulation's error.

Fast versions always run; the populations and the tuned procedure are slow.
"""

from __future__ import annotations

import numpy as np
import pytest

from prefloop.analysis.coverage import Outcome, cell, halving, simulate
from prefloop.analysis.decisions import Rule, decide

SIGMAS = 4.0
PLANTED = (0.0, 0.5, 2.0, 3.0)  # in thresholds


def pair(noise: str, both: bool = True, seeds: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Two cells of one rate with the same mean; the second without noise unless `both`."""
    first, second = (cell(noise, rates=1, best=0.0, seed=seed, seeds=seeds) for seed in (1, 2))
    return first, second if both else np.zeros_like(second)


def between(low: float, found: Outcome, high: float) -> bool:
    return low - SIGMAS * found.error(low) <= found.coverage <= high + SIGMAS * found.error(high)


def test_a_simulation_decides_as_decide_does() -> None:
    population = np.random.default_rng(0).normal(size=(1, 40))
    found = simulate([population], Rule(0.5), planted=0.4, weights=(1.0,), repeats=1, seed=5)
    rng = np.random.default_rng(5)
    rng.integers(40, size=(1, 12))  # tuning
    drawn = population[0, rng.integers(40, size=(1, 40))][0] + (0.4 - population.mean())
    looks = (decide(drawn[:n], Rule(0.5)) for n in range(12, 41, 4))
    last = next(x for x in looks if x.settled)
    assert found.seeds == last.n and found.verdicts == {last.verdict: 1.0}
    assert found.coverage == (last.interval.low <= 0.4 <= last.interval.high)


@pytest.mark.parametrize("planted", PLANTED)
def test_normal_effects_are_covered(planted: float) -> None:
    found = simulate(pair("normal", seeds=4000), Rule(0.7), planted=0.7 * planted, repeats=1000)
    assert between(0.94, found, 0.97)
    assert found.wrong <= 0.05 + SIGMAS * found.error(0.05)


def test_power_of_the_default_rule() -> None:
    """A threshold of 0.7 standard deviations of the effect."""
    cells = pair("normal", seeds=4000)
    none, half, twice, thrice = (simulate(cells, Rule(1.0), planted=p, repeats=500) for p in PLANTED)
    assert none.verdicts["equivalent"] > 0.9
    assert half.verdicts.get("smaller than claimed", 0) + half.verdicts.get("equivalent", 0) > 0.5
    assert twice.verdicts["supported"] > 0.95 and thrice.verdicts["supported"] > 0.99
    assert thrice.seeds < twice.seeds < half.seeds < 40


def test_halving_takes_the_best_of_the_best() -> None:
    scores = np.array([[5.0, 5.0, -9.0, -9.0], [4.0, 4.0, 4.0, 4.0], [3.0, 3.0, 3.0, 3.0], [2.0, 2.0, 99.0, 99.0]])
    assert halving(scores, keep=3, nested=False) == (1, 0.0)
    assert halving(scores, keep=3)[1] > 0
