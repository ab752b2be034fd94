"""Numbers per example whose mean is an AUC or a rate: value, published variance, and the interval of a change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prefloop.analysis.labels import separation
from prefloop.analysis.likelihood import likelihood_metrics
from prefloop.analysis.parts import rate_parts, separation_parts
from prefloop.analysis.statistics import mean_se

RNG = np.random.default_rng(0)
GOOD = np.arange(60) < 25


def test_the_parts_of_an_area_have_its_value_and_delongs_error() -> None:
    values = np.round(RNG.normal(size=60) + GOOD, 1)  # with ties
    known, mean = separation(torch.tensor(values), torch.tensor(GOOD)), mean_se(separation_parts(values, GOOD))
    assert mean.value == pytest.approx(known.auc) and mean.se == pytest.approx(known.se, rel=0.03)


def test_the_parts_of_a_loss_have_its_value_and_error() -> None:
    logp, tokens = -RNG.gamma(2.0, 5.0, size=40), RNG.integers(3, 30, size=40)
    known, mean = likelihood_metrics(torch.tensor(logp), torch.tensor(tokens)), mean_se(rate_parts(-logp, tokens))
    assert mean.value == pytest.approx(known["eval/loss"]) and mean.se == pytest.approx(known["eval/loss_se"])


def test_values_that_all_tie_have_no_spread() -> None:
    assert (separation_parts(np.zeros(60), GOOD) == 0.5).all()


def test_the_interval_of_a_change_has_the_spread_of_repeated_draws() -> None:
    """Two values of the same examples, which depend on each other."""
    gaps, errors = [], []
    for _ in range(400):
        first = RNG.normal(size=60) + 0.4 * GOOD
        second = first + RNG.normal(size=60) * 0.5 + 0.4 * GOOD
        found = mean_se(separation_parts(second, GOOD) - separation_parts(first, GOOD))
        gaps.append(found.value)
        errors.append(found.se)
    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.12)
