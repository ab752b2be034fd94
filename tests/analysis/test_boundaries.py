"""Sequential boundaries: against tables, the multivariate normal distribution and their own definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm
from scipy.stats import t as student_t

from prefloop.analysis.boundaries import boundaries, crossing, student

SEEDS = tuple(range(12, 41, 4))
EVEN = (1, 2, 3, 4, 5)


def test_one_evaluation_is_the_normal_test() -> None:
    assert crossing((1.96,), (12,)) == pytest.approx(2 * norm.sf(1.96), abs=1e-12)
    alone = boundaries((20,), 0.95)
    assert alone.last == pytest.approx(norm.isf(0.025)) and alone.at(20) == alone.last


@pytest.mark.parametrize(
    "constant, power", [(2.413, 0.0), (2.040, 0.5)]
)  # Jennison & Turnbull 2000, tables 2.1 and 2.3
def test_published_constants(constant: float, power: float) -> None:
    bounds = tuple(constant * (5 / n) ** power for n in EVEN)
    assert crossing(bounds, EVEN) == pytest.approx(0.05, abs=1e-4)


def test_crossing_is_the_probability_outside_a_box() -> None:
    bounds, seeds = np.array([2.5, 2.2, 2.0]), np.array([12, 16, 24])
    law = multivariate_normal(cov=np.sqrt(np.minimum.outer(seeds, seeds) / np.maximum.outer(seeds, seeds)))
    inside = law.cdf(bounds, lower_limit=-bounds)
    assert crossing(tuple(bounds), tuple(seeds.tolist())) == pytest.approx(1 - inside, abs=5e-5)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_half_of_the_error_is_spent_before_the_end(level: float) -> None:
    found = boundaries(SEEDS, level)
    early = tuple(found.at(n) for n in SEEDS[:-1])
    assert crossing(early, SEEDS[:-1]) == pytest.approx((1 - level) / 2, abs=1e-9)
    assert crossing((*early, found.last), SEEDS) == pytest.approx(1 - level, abs=1e-9)
    assert list(early) == sorted(early, reverse=True) and min(early) > found.last > norm.isf((1 - level) / 2)


def test_the_constants_of_the_default_rule() -> None:
    found = boundaries(SEEDS, 0.95)
    assert found.interim == pytest.approx(2.21998, abs=1e-5) and found.last == pytest.approx(2.00545, abs=1e-5)


def test_simulated_error_of_boundaries() -> None:
    paths = np.random.default_rng(0).normal(size=(40_000, 40)).cumsum(1)[:, np.array(SEEDS) - 1] / np.sqrt(SEEDS)
    found = boundaries(SEEDS, 0.95)
    crossed = (np.abs(paths) >= [found.at(n) for n in SEEDS]).any(1).mean()
    assert crossed == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 40_000) ** 0.5)


@given(st.floats(0, 20), st.floats(0, 3))
def test_p_falls_with_z(z: float, more: float) -> None:
    found = boundaries(SEEDS, 0.95)
    assert 2 * norm.sf(z) <= found.p(z) * (1 + 1e-9)  # the price of eight evaluations
    assert found.p(z + more) <= found.p(z) + 1e-12
    assert found.p(-z) == found.p(z)


def test_p_at_the_last_boundary_is_the_error() -> None:
    found = boundaries(SEEDS, 0.95)
    assert found.p(found.last) == pytest.approx(0.05, abs=1e-9)
    assert found.p(0.0) == pytest.approx(1.0)
    assert 0 < found.p(12.0) < 1e-30  # no cancellation far out


def test_student_has_the_tail_of_z() -> None:
    assert student_t.sf(student(2.0, 12), 11) == pytest.approx(norm.sf(2.0), rel=1e-9)
