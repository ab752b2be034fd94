"""Geometry from samples of the reference: by hand, against enumeration within 4 standard errors, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.analysis import enumerated, geometry
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.statistics import Mean
from prefloop.core.streams import streams
from toys import rewards, tabular

SIGMAS = 4.0
PROMPTS, GROUP = 40, 32


def close(found: Mean, truth: float) -> bool:
    return abs(found.value - truth) <= SIGMAS * found.se + 1e-12


@pytest.fixture(scope="module", params=("continuous", "tied"))
def lab(request: pytest.FixtureRequest) -> tuple[np.ndarray, Tensor, Tensor]:
    """Rewards of samples of a tabular policy, its law, and the reward of every response."""
    policy, table = tabular(PROMPTS, 3, 2, scale=0.7), rewards(PROMPTS, 3, 2)
    if request.param == "tied":
        table = (table * 2).round() / 2
    x = torch.arange(PROMPTS)
    drawn = policy.draw(x, GROUP, streams(3)["sampling"]).responses
    sampled = table.gather(1, drawn[..., 0] * 3 + drawn[..., 1])
    return sampled.numpy(), policy.distribution(x).detach(), table


def test_quantiles(lab: tuple[np.ndarray, Tensor, Tensor]) -> None:
    sampled, law, table = lab
    levels = (0.1, 0.5, 0.9)
    for level, found in zip(levels, geometry.quantiles(sampled, levels), strict=True):
        assert close(found, enumerated.quantile(law, table, level))
    exact = enumerated.standardised(law, table)
    for level, found in zip(levels, geometry.quantiles(geometry.standardised(sampled), levels), strict=True):
        assert abs(found.value - enumerated.quantile(law, exact, level)) <= SIGMAS * found.se + 1.5 / GROUP  # its bias


def test_best_of_and_reach(lab: tuple[np.ndarray, Tensor, Tensor]) -> None:
    sampled, law, table = lab
    sizes = (1, 2, 7, GROUP)
    for size, found in zip(sizes, geometry.best_of(sampled, sizes), strict=True):
        within = geometry.best_of_each(sampled, size) - enumerated.best_of(law, table, size).numpy()
        assert abs(within.mean()) <= SIGMAS * within.std(ddof=1) / math.sqrt(PROMPTS)
        assert found.units == PROMPTS
    for size, found in zip(sizes, geometry.reach(sampled, 1.0, sizes), strict=True):
        assert close(found, float(enumerated.reach(law, table, 1.0, size).mean()))


def test_the_optimum(lab: tuple[np.ndarray, Tensor, Tensor]) -> None:
    """Prompt by prompt, so that differences between prompts do not hide an error."""
    sampled, law, table = lab
    for beta in (1.0, 3.0):
        found = geometry._debiased(sampled / beta)
        for estimate, truth in zip(found, enumerated.tilt(law, table, beta), strict=True):
            gap = estimate - truth.numpy()
            assert abs(gap.mean()) <= SIGMAS * gap.std(ddof=1) / math.sqrt(PROMPTS)
        whole = geometry.tilt(sampled, beta)
        assert isinstance(whole, geometry.Tilt)
        assert whole.kl.value == pytest.approx(found[1].mean()) and close(whole.log_z, float(found[0].mean()))


def test_the_best_of_m_is_the_mean_over_all_subsets() -> None:
    x = np.array([[0.3, -1.0, 2.0, 2.0, 0.5]])
    for m in range(1, 6):
        assert geometry.best_of_each(x, m)[0] == pytest.approx(np.mean([max(c) for c in combinations(x[0], m)]))
        hit = np.mean([max(c) >= 0.5 for c in combinations(x[0], m)])
        assert geometry.reach(x, 0.5, [m])[0].value == pytest.approx(hit)
    with pytest.raises(ValueError, match="best of 6"):
        geometry.best_of(x, [6])


def test_the_bound_of_the_kl_is_a_bound_and_tight_for_rare_distinct_rewards() -> None:
    for arms, scale in ((9, 1.0), (400, 0.0)):
        law = (
            scale * torch.randn(2, arms, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        ).log_softmax(-1)
        reward = torch.rand(2, arms, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for size in (2, 8, 64):
            exact, bound = enumerated.best_of_kl(law, reward, size), geometry.best_of_kl(size)
            assert bool((exact <= bound + 1e-12).all())
            if arms == 400 and size <= 8:
                assert exact.numpy() == pytest.approx(bound, abs=0.03)
    flat = torch.zeros(1, 5, dtype=torch.float64)
    assert float(enumerated.best_of_kl(flat.log_softmax(-1), flat, 8)) == pytest.approx(0.0)  # all tied: nothing moves


def test_weights_on_few_samples_are_refused_and_the_smallest_beta_is_told() -> None:
    x = np.random.default_rng(0).normal(size=(50, 32))
    assert isinstance(geometry.tilt(x, 1.2), geometry.Tilt)
    refused = geometry.tilt(x, 0.3)
    assert isinstance(refused, CannotTell) and "fewer than 8 effective samples of 32" in refused.reason
    least = geometry.smallest_beta(x)
    assert isinstance(geometry.tilt(x, least), geometry.Tilt)
    assert isinstance(geometry.tilt(x, 0.99 * least), CannotTell)
    assert geometry.smallest_beta(x[:, :4]) == math.inf and geometry.smallest_beta(np.ones((3, 9))) == 0.0
    assert isinstance(geometry.tilt(x[:, :1], 1.0), CannotTell)


def test_at_the_edge_of_what_is_told_the_kl_of_normal_rewards_is_within_a_twentieth() -> None:
    """σ²/2 for rewards N(0, σ²) at β = 1; where it is refused, the estimate would be far off."""
    rng = np.random.default_rng(1)
    many = rng.normal(size=(6000, 32))
    edge = 1 / geometry.smallest_beta(many)
    _, kl, _ = geometry._debiased(edge * many)
    assert 0.95 < kl.mean() / (edge**2 / 2) < 1.02
    _, far, _ = geometry._debiased(3 * edge * many)
    assert far.mean() < 0.75 * (3 * edge) ** 2 / 2


LAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape),
    "uniform": lambda rng, shape: rng.random(size=shape),
}


@pytest.mark.parametrize("law", LAWS)
def test_a_continued_curve_meets_the_truth(law: str) -> None:
    rng = np.random.default_rng(2)
    truth = LAWS[law](rng, (20_000, 64)).max(1).mean()
    for _ in range(3):
        level = rng.normal(size=(48, 1))
        found = geometry.extrapolate(LAWS[law](rng, (48, 16)) + level, 64)
        assert (
            isinstance(found, geometry.Beyond)
            and abs(found.value.value - level.mean() - truth) <= SIGMAS * found.value.se
        )


def smooth_of(rng: np.random.Generator, prompts: int) -> np.ndarray:
    return rng.normal(size=(prompts, 32))


def test_a_curve_is_not_continued_where_the_fit_is_bad() -> None:
    rng = np.random.default_rng(3)
    smooth, rare = rng.normal(size=(48, 32)), rng.random((48, 32)) < 0.02
    said = {
        "carry": geometry.extrapolate(smooth, 129),
        "from 16 samples": geometry.extrapolate(smooth[:, :8], 16),
        "3 prompts": geometry.extrapolate(smooth[:2], 64),
        "share the best reward": geometry.extrapolate(rare.astype(float), 64),
        "no such tail": geometry.extrapolate(8.0 * (rng.random((400, 32)) < 0.01) + smooth_of(rng, 400), 64),
        "bends upwards": geometry.extrapolate(9.0 * (rng.random((2000, 32)) < 0.05) + 0.1 * smooth_of(rng, 2000), 64),
    }
    for part, found in said.items():
        assert isinstance(found, CannotTell) and part in found.reason
    assert "cannot tell: " in str(said["carry"])
