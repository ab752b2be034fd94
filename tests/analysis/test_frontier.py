"""Rewards at matched KL, by hand."""

from __future__ import annotations

import math

import pytest

from prefloop.analysis.compare import difference
from prefloop.analysis.frontier import at, matched

UP = [(0.0, 1.0), (2.0, 3.0), (6.0, 5.0)]


@pytest.mark.parametrize(
    ("kl", "reward"), [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 3.5), (6.0, 5.0), (6.1, math.nan), (-1.0, math.nan)]
)
def test_between_evaluations_in_proportion(kl: float, reward: float) -> None:
    assert at(UP, kl) == pytest.approx(reward, nan_ok=True)


def test_a_policy_that_returns_counts_when_it_first_got_there() -> None:
    assert at([(0.0, 0.0), (4.0, 4.0), (1.0, 9.0), (4.0, 8.0)], 2.0) == 2.0


def test_matched_at_the_farthest_that_all_reached() -> None:
    a = {s: [(0.0, 0.0), (2.0, 2.0 + s), (8.0, 8.0)] for s in range(3)}
    b = {s: [(0.0, 0.0), (1.0, 0.5), (5.0 + s, 2.5)] for s in range(3)}
    seen = matched(a, b)
    assert seen is not None and (seen.low, seen.kl) == (2.0, 5.0)
    assert seen.difference == difference([at(a[s], 5.0) - at(b[s], 5.0) for s in range(3)], unit="seeds")


@pytest.mark.parametrize(
    "other",
    [
        [(0.0, 1.0), (7.0, 2.0), (9.0, 3.0)],  # first evaluated beyond the farthest of the other
        [(0.0, 1.0), (1.0, 2.0)],  # stopped before the other's first evaluation
        [(0.0, 1.0)],
    ],
)
def test_curves_that_do_not_overlap_are_not_compared(other: list[tuple[float, float]]) -> None:
    assert matched({0: UP}, {0: other}) is None
    assert matched({0: UP}, {1: UP}) is None  # no seed in common
