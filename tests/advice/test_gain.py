"""What predicts the gain of on-policy sampling: ranks as scipy has them, and a gain that noise does not make."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from prefloop.advice.actions import ACTIONS
from prefloop.advice.gain import ahead, correlations, on_policy_gain, spearman
from prefloop.advice.merit import SWITCHES, by_switch, switches
from prefloop.advice.table import Table

NAMES = ("beyond", "votes", "reach")
OWN = switches(tuple(ACTIONS))[:, SWITCHES.index("on_policy")]


def made(n: int, planted: float, noise: float = 0.02) -> Table:
    """`beyond` is what on-policy sampling gains, times `planted`; `reach` is half of it and half noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    x[:, 2] = (x[:, 0] + rng.normal(size=n)) / 2
    value = 0.5 + planted * x[:, :1] * OWN
    values = value[..., None] + noise * rng.normal(size=(n, len(ACTIONS), 8))
    names = tuple(f"rotated-{i:04}" for i in range(n))
    return Table(names, ("rotated",) * n, NAMES, x, values, np.zeros_like(values))


@pytest.mark.parametrize("n", [5, 40])
def test_rank_correlation_is_that_of_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    for x, y in (rng.normal(size=(2, n)), rng.integers(4, size=(2, n)).astype(float)):  # the second with ties
        assert spearman(x, y) == pytest.approx(float(stats.spearmanr(x, y).statistic))
    assert spearman(x, x**3) == pytest.approx(1.0) and spearman(x, -x) == pytest.approx(-1.0)
    assert math.isnan(spearman(np.ones(n), x))


def test_the_gain_is_the_best_of_one_kind_less_the_best_of_the_other() -> None:
    table = made(60, planted=0.1)
    assert on_policy_gain(table) == pytest.approx(0.1 * table.features[:, 0], abs=0.05)
    noisy = on_policy_gain(made(400, planted=0.0, noise=0.1))  # as many of either kind, or the best of more noise wins
    assert abs(noisy.mean()) < 3 * noisy.std() / 20


def test_the_planted_feature_predicts_best_and_by_an_interval() -> None:
    table = made(60, planted=0.1)
    gain = on_policy_gain(table)
    first, second, last = correlations(table, gain, NAMES)
    assert (first.feature, second.feature, last.feature) == ("beyond", "reach", "votes")
    assert first.rho.low > 0.9 and last.rho.low < 0 < last.rho.high and first.rho.units == 60
    assert ahead(table, gain, "beyond", "reach").low > 0
    table.features[3:, 1] = np.nan  # known of three problems
    unknown = correlations(table, gain, ("votes",))[0].rho
    assert math.isnan(unknown.value) and unknown.units == 3


def test_coefficients_are_told_by_switch_with_their_errors() -> None:
    """0.1 of a best value of 0.5 and a little more."""
    slopes, errors = by_switch(made(60, planted=0.1))
    at = SWITCHES.index("on_policy")
    assert slopes[at, 0] == pytest.approx(0.18, abs=0.03) and 0 < errors[at, 0] < 0.02
    assert np.abs(np.delete(slopes, at, 0)).max() < 0.03
