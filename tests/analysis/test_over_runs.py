"""Interquartile means and probabilities of improvement: by hand, against SciPy, and by laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prefloop.analysis.over_runs import improvement, iqm_over_runs
from prefloop.analysis.statistics import iqm, stratified_bootstrap

LISTS = st.lists(st.integers(-5, 5).map(float), min_size=3, max_size=8)


@given(LISTS, LISTS)
def test_it_is_the_statistic_of_mann_and_whitney(x: list[float], y: list[float]) -> None:
    seen = improvement(x, y)
    assert seen.value == pytest.approx(stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)))
    assert 0 <= seen.low <= seen.value <= seen.high <= 1 and seen.units == min(len(x), len(y))


@given(LISTS, LISTS)
def test_swapping_the_two_turns_it_round(x: list[float], y: list[float]) -> None:
    there, back = improvement(x, y), improvement(y, x)
    assert (back.value, back.low, back.high) == pytest.approx(
        (1 - there.value, 1 - there.high, 1 - there.low), abs=1e-8
    )


def test_the_ends_solve_the_equation() -> None:
    x, y = [3.0, 1.0, 5.0, 4.0], [2.0, 0.0, 2.5]
    seen = improvement(x, y)
    m, n, z = 4, 3, stats.norm.isf(0.025)
    for end in (seen.low, seen.high):
        rest = (1 - end) / (2 - end) + end / (1 + end)
        variance = end * (1 - end) * (1 + ((m + n) / 2 - 1) * rest) / (m * n)
        assert abs(seen.value - end) == pytest.approx(z * math.sqrt(variance), abs=1e-7)


def test_complete_separation_is_no_certainty() -> None:
    three, ten = (improvement(np.arange(n) + 100.0, np.arange(n)) for n in (3, 10))
    assert three.value == three.high == 1.0 and 0.4 < three.low < 0.6 < ten.low < 1.0


def test_fewer_than_three_trainings_have_no_interval() -> None:
    seen = improvement([1.0, 2.0], [0.0, 0.0, 3.0])
    assert seen.value == pytest.approx(4 / 6) and math.isnan(seen.low) and math.isnan(seen.high)


@pytest.mark.parametrize("x", [[0.2, 0.5, 0.6], [0.2, 0.5, 0.6, 0.9], [3.0, 1.0, 7.0, 4.0, 2.0, 9.0, 5.0, 6.0]])
def test_the_interval_of_an_interquartile_mean_holds_both_others(x: list[float]) -> None:
    seen, drawn = iqm_over_runs(x), stratified_bootstrap(np.sort(x)[:, None], seed=0)
    assert seen.value == pytest.approx(iqm(x)) and seen.units == len(x)
    assert seen.low <= drawn.low and seen.high >= drawn.high
    if len(x) == 3:  # nothing is cut: the mean and Student's t
        known = stats.ttest_1samp(x, 0).confidence_interval(0.95)
        assert (seen.low, seen.high) == pytest.approx((known.low, known.high))


def test_a_trimmed_interval_by_hand() -> None:
    """1, 2, 4, 9: the middle two have mean 3; pulled in they are 2, 2, 4, 4, so s² = 4/(2·1) and t on one degree."""
    seen = iqm_over_runs([9.0, 1.0, 4.0, 2.0])
    assert seen.value == 3.0
    assert seen.high - 3.0 == pytest.approx(12.7062 * math.sqrt(2), rel=1e-5)


def test_one_training_has_no_interval() -> None:
    assert math.isnan(iqm_over_runs([1.0]).low) and iqm_over_runs([1.0]).value == 1.0


@pytest.mark.parametrize("x", [[], [math.nan, 1.0], [[1.0]]])
def test_what_are_no_results_is_refused(x: object) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        improvement(x, [1.0])  # type: ignore[arg-type]
