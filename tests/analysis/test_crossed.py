"""Several seeds on the same prompts: against mean squares of an analysis of variance, by hand, and by laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prefloop.analysis.compare import LEAST_SEEDS, Difference, Scores, crossed, difference, level_with, paired


def scores(table: np.ndarray) -> Scores:
    return {f"seed {s}": {f"prompt {p}": float(x) for p, x in enumerate(row)} for s, row in enumerate(table)}


def against_zero(table: np.ndarray, **options: object) -> Difference:
    return crossed(scores(table), level_with(scores(table)), **options)  # type: ignore[arg-type]


def by_mean_squares(y: np.ndarray) -> tuple[float, float]:
    """Standard error and degrees of freedom from the table of an analysis of variance, two factors, one number each."""
    s, p = y.shape
    seed = p * ((y.mean(1) - y.mean()) ** 2).sum() / (s - 1)
    prompt = s * ((y.mean(0) - y.mean()) ** 2).sum() / (p - 1)
    rest = ((y - y.mean(1)[:, None] - y.mean(0) + y.mean()) ** 2).sum() / ((s - 1) * (p - 1))
    a, b = seed / (s * p), max(prompt - rest, 0) / (s * p)
    return math.sqrt(a + b), (a + b) ** 2 / (a**2 / (s - 1) + b**2 / (p - 1))


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_the_interval_is_that_of_the_analysis_of_variance(spread: float) -> None:
    rng = np.random.default_rng(0)
    y = 0.5 * rng.normal(size=(4, 1)) + spread * rng.normal(size=(1, 9)) + rng.normal(size=(4, 9))
    se, df = by_mean_squares(y)
    half = max(stats.t.isf(0.025, df) * se, stats.t.isf(0.025, 3) * y.mean(1).std(ddof=1) / 2)
    seen = against_zero(y)
    assert (seen.low, seen.value, seen.high) == pytest.approx((y.mean() - half, y.mean(), y.mean() + half), rel=1e-9)
    assert stats.t.isf(0.025, seen.df) * seen.se == pytest.approx(half)
    assert (seen.n, seen.unit) == (4, "seeds × 9 prompts")


def ends_of(y: np.ndarray, half: float) -> tuple[float, float]:
    return y.mean() - half, y.mean() + half


def test_two_prompts_are_enough_for_an_interval_over_both() -> None:
    y = np.array([[0.0, 3.0], [0.2, 3.1], [-0.1, 3.3]])
    se, df = by_mean_squares(y)
    seen = against_zero(y)
    assert (seen.low, seen.high) == pytest.approx(ends_of(y, stats.t.isf(0.025, df) * se))
    assert seen.high - seen.low > 5 * (difference(y.mean(1), unit="seeds").high - y.mean())


def test_seeds_and_prompts_may_spread_alike() -> None:
    y = np.add.outer(np.arange(9.0), np.arange(9.0))
    se, df = by_mean_squares(y)
    seen = against_zero(y)
    assert (seen.low, seen.high) == pytest.approx(ends_of(y, stats.t.isf(0.025, df) * se))


def test_prompts_of_one_question_leave_the_interval_over_seeds() -> None:
    y = np.random.default_rng(4).normal(size=(4, 6))
    seen, alone = against_zero(y, clusters=dict.fromkeys((f"prompt {p}" for p in range(6)), "one")), y.mean(1)
    assert (seen.low, seen.high, seen.df) == pytest.approx((*difference_ends(alone), 3.0))
    assert seen.unit == "seeds × 1 prompts"


def difference_ends(values: np.ndarray) -> tuple[float, float]:
    seen = difference(values, unit="seeds")
    return seen.low, seen.high


TABLES = st.integers(0, 10_000).map(
    lambda k: np.random.default_rng(k).normal(size=(3 + k % 3, 2 + k % 7)) + np.random.default_rng(k + 1).normal()
)


@given(TABLES)
def test_it_is_never_narrower_than_that_of_the_seeds_alone(table: np.ndarray) -> None:
    seen, alone = against_zero(table), difference(table.mean(1), unit="seeds")
    assert seen.low <= alone.low + 1e-12 and seen.high >= alone.high - 1e-12


@given(TABLES)
def test_order_of_seeds_and_prompts_and_what_both_share_do_not_matter(table: np.ndarray) -> None:
    one = against_zero(table)
    turned = against_zero(table[::-1, ::-1])
    base = np.random.default_rng(5).normal(size=table.shape) * 100
    moved = crossed(scores(table + base), scores(base))
    for other in (turned, moved):
        assert (other.low, other.high, other.value) == pytest.approx((one.low, one.high, one.value), abs=1e-9)


def test_questions_with_several_prompts_count_once() -> None:
    rng = np.random.default_rng(3)
    y = 0.3 * rng.normal(size=(3, 1)) + rng.normal(size=(1, 8)) + 0.1 * rng.normal(size=(3, 8))
    key = {f"prompt {p}": p // 5 for p in range(40)}
    five = against_zero(np.repeat(y, 5, axis=1), clusters=key)
    assert five.unit == "seeds × 8 prompts"
    assert (five.low, five.high) == pytest.approx((against_zero(y).low, against_zero(y).high), rel=1e-9)


def test_alike_prompts_leave_the_interval_over_seeds() -> None:
    """Every prompt shows the same: nothing is added to Student's t over seeds."""
    means = np.array([[0.1], [0.25], [0.2]])
    seen, alone = against_zero(np.repeat(means, 6, axis=1)), difference(means[:, 0], unit="seeds")
    assert (seen.low, seen.high) == pytest.approx((alone.low, alone.high), rel=1e-6)


def test_alike_seeds_leave_the_interval_over_prompts() -> None:
    row = np.array([[0.1, 0.9, -0.2, 0.4, 0.5]])
    seen, alone = against_zero(np.repeat(row, 4, axis=0)), difference(row[0], unit="prompts")
    assert (seen.low, seen.high) == pytest.approx((alone.low, alone.high), rel=1e-6)
    assert seen.df == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_averaged_and_judged_by_prompt(seeds: int) -> None:
    table = np.random.default_rng(1).normal(size=(seeds, 12))
    assert seeds < LEAST_SEEDS
    assert against_zero(table) == difference(table.mean(0), unit="prompts")


def test_seeds_are_paired_only_with_themselves() -> None:
    table = np.random.default_rng(2).normal(size=(5, 6))
    a = {s: dict(enumerate(map(float, row))) for s, row in enumerate(table)}
    b = {s + 2: own for s, own in a.items()}  # shares seeds 2, 3, 4
    gaps = np.array([[a[s][p] - b[s][p] for p in range(6)] for s in (2, 3, 4)])
    seen = crossed(a, b)
    assert (seen.n, seen.value) == (3, pytest.approx(gaps.mean()))
    few = crossed(a, {s + 4: own for s, own in a.items()})  # one seed in common: all seeds of each, by prompt
    assert few.unit == "prompts" and few.value == pytest.approx(0.0, abs=1e-12)


def test_numbers_without_prompts_are_paired_by_seed() -> None:
    a, b = {0: {"": 1.0}, 1: {"": 3.0}, 2: {"": 2.0}}, {1: {"": 1.0}, 2: {"": 1.5}}
    assert crossed(a, b) == paired({1: 3.0, 2: 2.0}, {1: 1.0, 2: 1.5}, unit="seeds")


def test_equal_differences_everywhere_are_no_estimate() -> None:
    seen = against_zero(np.full((3, 5), 0.1))
    assert math.isnan(seen.low) and not seen.is_significant
    nothing = against_zero(np.zeros((3, 5)))
    assert (nothing.low, nothing.high, nothing.df) == (0.0, 0.0, 2.0)


@pytest.mark.parametrize(
    ("a", "b", "what"),
    [
        ({0: {"x": 1.0, "y": 1.0}}, {0: {"z": 1.0, "w": 2.0}}, "no prompts in common"),
        ({0: {"": 1.0}}, {1: {"": 1.0}}, "no seeds in common"),
        ({s: {"x": math.nan, "y": 1.0} for s in range(3)}, {s: {"x": 0.0, "y": 1.0} for s in range(3)}, "finite"),
    ],
)
def test_what_has_nothing_in_common_is_refused(a: Scores, b: Scores, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        crossed(a, b)
