"""Means, IQM and bootstrap: against hand values, scipy, and the true coverage on data with known clusters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prefloop.analysis.statistics import bootstrap, difference, iqm, mean_se, proportion, stratified_bootstrap

FLOATS = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


def test_mean_se_by_hand() -> None:
    seen = mean_se([1.0, 2.0, 6.0])  # s² = (4 + 1 + 9)/2 = 7
    assert (seen.value, seen.units) == (3.0, 3)
    assert seen.se == pytest.approx((7 / 3) ** 0.5)
    clustered = mean_se([1.0, 3.0, 8.0], clusters=["a", "a", "b"])  # sums −4 and 4: 2·(16 + 16)/9
    assert clustered.value == 4.0 and clustered.units == 2
    assert clustered.se == pytest.approx(8 / 3)


def test_se_needs_two_units() -> None:
    assert np.isnan(mean_se([2.0]).se)
    assert np.isnan(mean_se([2.0, 3.0], clusters=[7, 7]).se)


@given(FLOATS)
def test_mean_se_is_scipys_sem(x: list[float]) -> None:
    assert mean_se(x).se == pytest.approx(stats.sem(x), abs=1e-9)


@given(FLOATS)
def test_repeating_rows_inside_clusters_tells_nothing_new(x: list[float]) -> None:
    keys = list(range(len(x)))
    assert mean_se(x * 5, clusters=keys * 5).se == pytest.approx(mean_se(x).se, abs=1e-9)


@given(FLOATS)
def test_iqm_is_the_trimmed_mean(x: list[float]) -> None:
    assert iqm(x) == pytest.approx(stats.trim_mean(x, 0.25), abs=1e-9)


def test_iqm_by_hand() -> None:
    assert iqm([100.0, 1.0, 2.0, 4.0]) == 3.0
    assert iqm([[0.0, 10.0], [5.0, 7.0]]) == 6.0


def test_bootstrap_agrees_with_scipy() -> None:
    x = np.random.default_rng(0).exponential(size=60)
    own = bootstrap(x, seed=1, n=20_000)
    known = stats.bootstrap((x,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2))
    assert own.value == pytest.approx(x.mean())
    assert (own.low, own.high) == pytest.approx(tuple(known.confidence_interval), abs=0.01)


def test_clusters_are_drawn_whole() -> None:
    # A resample of the two clusters is aa, ab, ba or bb, with means 0, 1/3, 1/3 and 1.
    seen: set[float] = set()

    def watch(rows: np.ndarray) -> float:
        seen.add(round(float(rows.mean()), 6))
        return float(rows.mean())

    bootstrap([0.0, 0.0, 1.0], watch, clusters=["a", "a", "b"], seed=0, n=200)
    assert seen == {0.0, 0.333333, 1.0}


def test_interval_covers_the_truth_only_when_clustered() -> None:
    rng = np.random.default_rng(4)
    keys, covered = np.repeat(np.arange(40), 8), {True: 0, False: 0}
    for trial in range(100):
        x = rng.normal(size=40)[keys] + 0.3 * rng.normal(size=len(keys))  # true mean 0
        for clustered in covered:
            seen = bootstrap(x, clusters=keys if clustered else None, seed=trial, n=200)
            covered[clustered] += seen.low <= 0 <= seen.high
    assert 0.88 <= covered[True] / 100 <= 0.99
    assert covered[False] / 100 < 0.7


def test_intervals_of_the_same_seed_are_paired_and_repeatable() -> None:
    x, keys = np.random.default_rng(0).normal(size=12), list("aabbccddeeff")
    first, again = bootstrap(x, clusters=keys, seed=5), bootstrap(x, clusters=keys, seed=5)
    shifted = bootstrap(x + 1, clusters=keys, seed=5)
    assert first == again != bootstrap(x, clusters=keys, seed=6)
    assert (shifted.low, shifted.high) == pytest.approx((first.low + 1, first.high + 1))


def test_stratified_bootstrap_keeps_every_task() -> None:
    scores = np.tile([0.0, 10.0, 20.0], (5, 1))  # no spread inside a task: nothing to be unsure about
    seen = stratified_bootstrap(scores, lambda x: float(x.mean()), seed=0, n=50)
    assert (seen.value, seen.low, seen.high, seen.units) == (10.0, 10.0, 10.0, 5)
    noisy = scores + np.random.default_rng(0).normal(size=scores.shape)
    wide = stratified_bootstrap(noisy, seed=0)
    assert wide.low < wide.value < wide.high and wide.high - wide.low < 3


def test_proportions_at_their_boundary_keep_wilsons_width() -> None:
    alone, one = proportion(np.ones(20), seed=0, n=50), proportion([1.0, 1.0], clusters="aa", seed=0, n=50)
    wilson = stats.binomtest(20, 20).proportion_ci(method="wilson")
    assert (alone.low, alone.high) == pytest.approx((wilson.low, 1.0))
    assert one.low == pytest.approx(stats.binomtest(1, 1).proportion_ci(method="wilson").low) and one.units == 1
    repeated = proportion(np.ones(100), clusters=np.arange(20).repeat(5), seed=0, n=50)
    assert repeated.low == pytest.approx(alone.low)  # five times the same question is no evidence
    tied = proportion(np.full(20, 0.5), seed=0, n=50)
    assert tied.low == pytest.approx(1 - tied.high) and tied.low < 0.35


def test_proportions_inside_are_those_of_the_bootstrap() -> None:
    x = (np.random.default_rng(0).random(400) < 0.7).astype(float)
    plain, seen = bootstrap(x, seed=0), proportion(x, seed=0)
    assert seen.low <= plain.low and seen.high >= plain.high
    assert (seen.low, seen.high) == pytest.approx((plain.low, plain.high), abs=0.01)


def test_few_rows_that_differ_one_way_are_not_certain() -> None:
    few, many = (difference(np.r_[np.ones(k), np.zeros(100 - k)], seed=0, n=500) for k in (4, 12))
    assert few.low < 0 < many.low  # a sign test gives 0.125 and 0.0005
    assert difference([1.0, 1.0], clusters="aa", seed=0, n=20).low == pytest.approx(1 - stats.norm.ppf(0.975))


def test_resamples_without_a_value_are_left_out_or_leave_no_interval() -> None:
    def share(rows: np.ndarray) -> float:  # not defined without a 1
        return float(rows.mean()) if rows.any() else float("nan")

    often, rare = (bootstrap(np.r_[np.ones(k), np.zeros(9)], share, seed=0, n=500) for k in (1, 4))
    assert np.isnan(often.low) and np.isnan(often.high) and str(often) == "0.100 [not known]"
    assert 0 < rare.low < rare.value < rare.high
    assert str(bootstrap([0.0], share, seed=0, n=5)) == "–"


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: mean_se([]), "at least one row"),
        (lambda: mean_se([1.0, 2.0], clusters=["a"]), "1 cluster labels for 2 rows"),
        (lambda: bootstrap([1.0], seed=0, level=1.0), "between 0 and 1"),
        (lambda: stratified_bootstrap([1.0, 2.0], seed=0), "matrix"),
    ],
)
def test_errors(call, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        call()
