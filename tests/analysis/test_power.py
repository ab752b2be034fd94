"""What a comparison could have seen: against SciPy's noncentral t, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from prefloop.analysis.compare import difference
from prefloop.analysis.power import detectable, seen


@pytest.mark.parametrize("df", [2, 3, 4, 9, 63, 1000])
@pytest.mark.parametrize(("level", "power"), [(0.95, 0.8), (0.9, 0.5), (0.99, 0.9)])
def test_the_chance_to_see_it_is_that_of_the_noncentral_t(df: int, level: float, power: float) -> None:
    found, critical = detectable(1.0, df, level=level, power=power), stats.t.isf((1 - level) / 2, df)
    law = stats.nct(df, found)
    other = np.nan_to_num(law.cdf(-critical))  # SciPy has nan where it is below 1e-6
    assert law.sf(critical) + other == pytest.approx(power, abs=2e-4)
    assert detectable(2.5, df, level=level, power=power) == pytest.approx(2.5 * found)


def test_with_many_units_it_is_the_textbook_formula() -> None:
    assert detectable(1.0, 1e7) == pytest.approx(stats.norm.isf(0.025) + stats.norm.isf(0.2), abs=1e-4)


@pytest.mark.parametrize("n", [3, 5, 20])
def test_comparisons_see_it_as_often_as_said(n: int) -> None:
    """True spread 1, true difference as detectable: 80 % of 2,000 comparisons are significant, ± 4 standard errors."""
    delta = detectable(1 / math.sqrt(n), n - 1)
    x = delta + np.random.default_rng(n).normal(size=(2000, n))
    share = np.mean([difference(row, unit="seeds").is_significant for row in x])
    assert share == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 2000))


def test_of_a_comparison() -> None:
    known = difference([0.1, 0.3, 0.2, 0.4], unit="seeds")
    assert seen(known) == detectable(np.std([1, 3, 2, 4], ddof=1) / 20, 3.0)


def test_an_unknown_spread_says_nothing() -> None:
    assert math.isnan(detectable(math.nan, 2.0)) and math.isnan(detectable(0.0, 2.0))
    assert math.isnan(seen(difference([0.1], unit="seeds")))


@pytest.mark.parametrize(("level", "power"), [(1.0, 0.8), (0.95, 1.0), (0.95, 0.04)])
def test_impossible_levels_are_refused(level: float, power: float) -> None:
    with pytest.raises(ValueError, match="power above 1 − level"):
        detectable(1.0, 4, level=level, power=power)
