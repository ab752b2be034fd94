"""Loss and perplexity by hand, and the standard error of a ratio against resampled responses."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.analysis.likelihood import likelihood_metrics

F64 = torch.float64


def test_the_loss_is_over_all_tokens_and_the_perplexity_its_exponential() -> None:
    found = likelihood_metrics(torch.tensor([-2.0, -10.0], dtype=F64), torch.tensor([2, 6]))
    assert found["eval/loss"] == 12 / 8 and found["eval/perplexity"] == pytest.approx(math.exp(1.5))
    assert found["eval/loss_se"] == pytest.approx(math.sqrt(2 * 2 * 1.0**2) / 8)  # residuals ∓1
    low, high = found["eval/perplexity_low"], found["eval/perplexity_high"]
    assert math.log(high) - 1.5 == pytest.approx(1.96 * found["eval/loss_se"]) == pytest.approx(1.5 - math.log(low))
    assert found["eval/demonstrations"] == 2


def test_a_single_response_and_equal_ones_have_no_error() -> None:
    assert likelihood_metrics(torch.tensor([-3.0]), torch.tensor([2]))["eval/loss_se"] == 0
    equal = likelihood_metrics(torch.tensor([-3.0, -6.0]), torch.tensor([2, 4]))
    assert equal["eval/loss_se"] == 0 and equal["eval/perplexity_low"] == equal["eval/perplexity_high"]


def test_the_standard_error_is_that_of_resampled_responses() -> None:
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 30, (400,), generator=rng)
    logp = -lengths * (1 + 0.5 * torch.rand(400, generator=rng, dtype=F64)) - torch.rand(400, generator=rng)
    rows = torch.randint(400, (2000, 400), generator=rng)
    means = -logp[rows].sum(1) / lengths[rows].sum(1)
    assert likelihood_metrics(logp, lengths)["eval/loss_se"] == pytest.approx(float(means.std()), rel=0.1)
