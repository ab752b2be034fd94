"""Headroom, the noise of a choice, and broken runs: by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from prefloop.analysis.breaks import breaks
from prefloop.analysis.choice import choice_se
from prefloop.analysis.headroom import headroom

NOISE = np.random.default_rng(0).normal(size=16)
NOISE = (NOISE - NOISE.mean()) / NOISE.std(ddof=1)  # the standard error of its mean is 0.25


def test_best_and_worst_must_differ_by_five_standard_errors() -> None:
    zero = np.zeros(16)
    assert headroom({"a": NOISE + 1.26, "b": zero}) == ""
    assert "best and worst (a, b) differ by 1.240 ± 0.250, less than 5" in headroom({"a": NOISE + 1.24, "b": zero})
    assert headroom({"a": NOISE + 5, "b": NOISE}) == ""  # paired: common noise cancels
    assert "less than 5" in headroom({"a": zero, "b": zero})
    assert headroom({"a": NOISE + 3, "b": NOISE + 2.9, "c": zero}) == ""


def test_where_methods_should_be_alike_only_the_ceiling_matters() -> None:
    same = {"a": np.full(16, 0.5), "b": np.full(16, 0.5)}
    assert "less than 5" in headroom(same, largest=1.0)
    assert headroom(same, largest=1.0, alike=True) == ""
    assert "largest measurable" in headroom({"a": np.full(16, 0.99), "b": NOISE}, largest=1.0, alike=True)


def test_scores_near_the_largest_measurable_one_have_no_headroom() -> None:
    scores = {"a": np.full(4, 0.95), "b": np.full(4, 0.2), "c": np.full(4, 0.5)}
    assert headroom(scores, largest=0.9667) == "within 2 % of the largest measurable score, 0.967: a"
    assert headroom(scores, largest=0.98) == ""
    assert headroom(scores, largest=0.9667, cells=["b", "c"]) == ""
    assert headroom(scores, largest=0.9667, cells=["a", "b"], ceiling="all") == ""
    assert headroom({"a": np.full(4, -0.1), "b": np.full(4, -3.0)}, largest=0.0) == ""


def test_headroom_needs_paired_methods() -> None:
    for scores in ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}):
        with pytest.raises(ValueError, match="two or more methods"):
            headroom(scores)


def test_a_clear_choice_has_no_error_and_a_toss_has_half_the_gap() -> None:
    assert choice_se([[1.0, 1.1, 1.2, 1.0], [0.0, 0.1, 0.0, 0.1]]) == pytest.approx(0)
    rows = np.array([[1.0, 0.0] * 10, [0.0, 1.0] * 10])
    rows[0] += 1e-3
    assert choice_se(rows, n=2000) == pytest.approx(0.5e-3, rel=0.05)


def test_choice_se_is_the_same_each_time() -> None:
    table = np.random.default_rng(1).normal(size=(3, 12))
    assert choice_se(table, seed=3) == choice_se(table, seed=3) > 0


def test_choice_se_needs_a_table_of_seeds() -> None:
    for table in ([[1.0], [2.0]], [1.0, 2.0], [[1.0, math.nan], [1.0, 2.0]]):
        with pytest.raises(ValueError, match="two or more seeds"):
            choice_se(table)


def test_breaks_and_the_median_of_the_others() -> None:
    found = breaks([9.0, *range(1, 13)], [True] + [False] * 12)
    wilson = binomtest(1, 13).proportion_ci(method="wilson")
    assert found.share.value == pytest.approx(1 / 13)
    assert found.share.low <= wilson.low and found.share.high >= wilson.high - 1e-12
    assert (found.median.value, found.median.units) == (6.5, 12)
    assert (found.median.low, found.median.high) == (3, 10)  # order statistics: 96 % of binomial(12, ½)
    assert math.isnan(breaks([1.0, 2.0], [True, True]).median.value)
    with pytest.raises(ValueError, match="one length"):
        breaks([1.0], [True, False])
