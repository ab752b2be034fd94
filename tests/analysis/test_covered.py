"""Coverage of intervals with clustered prompts and three to five seeds; tolerance of four simulation errors.

The naive intervals are shown beside, and fail; the whole table is slow, a part always runs.
"""

from __future__ import annotations

import math

import pytest

from prefloop.analysis.covered import OURS, SPREADS, coverage, coverage_of_improvement, coverage_of_iqm

LOW, HIGH, REPEATS = 0.93, 0.97, 1000


def inside(share: float, repeats: int = REPEATS, low: float = LOW, high: float = HIGH) -> bool:
    error = 4 * math.sqrt(0.05 * 0.95 / repeats)
    return low - error <= share <= high + error


@pytest.mark.parametrize("what", ["the seed", "the question"])
def test_ours_covers_and_what_leaves_out_a_source_does_not(what: str) -> None:
    seen = coverage(SPREADS[what], seeds=4, repeats=120)
    assert inside(seen[OURS], 120)
    naive = ["every answer a unit", "runs × tasks bootstrap", "questions only" if what == "the seed" else "seeds only"]
    assert all(seen[name] < 0.85 for name in naive)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 4, 5])
@pytest.mark.parametrize("what", SPREADS)
def test_differences_are_covered(what: str, seeds: int) -> None:
    assert inside(coverage(SPREADS[what], seeds=seeds, repeats=REPEATS)[OURS])


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["mixture", "one in ten breaks"])
def test_other_noise_is_covered_in_differences_of_alike_methods(noise: str) -> None:
    """Skewed parts in both methods: their difference is symmetric, as `decisions` says."""
    seen = coverage(SPREADS["both alike"], seeds=4, noise=noise, repeats=REPEATS)
    assert inside(seen[OURS], low=0.90)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 4, 5, 10])
def test_interquartile_means_are_covered(seeds: int) -> None:
    seen = coverage_of_iqm(seeds=seeds, repeats=REPEATS)
    assert inside(seen["widened"])
    assert seeds == 10 or seen["bootstrap"] < 0.92


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_probabilities_of_improvement_are_covered(shift: float) -> None:
    _, seen = coverage_of_improvement(shift, seeds=5, repeats=REPEATS)
    assert inside(seen["score interval"]) and seen["bootstrap"] < 0.93
