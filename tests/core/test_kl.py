"""KL divergence: values, exact sums, and the expected gradient of every estimator against enumeration (T = 2)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefloop.core import kl
from prefloop.core.batch import Batch, MissingNeed
from prefloop.core.errors import UserError
from prefloop.policies.categorical import Categorical
from toys import F64, make_batch, make_logp, tabular

POINTS = [-3.0, -0.5, 0.0, 1e-3, 0.5, 2.0]


def test_estimators_by_formula() -> None:
    d = torch.tensor(POINTS, dtype=F64)
    assert kl.k1(d).tolist() == POINTS
    assert kl.k2(d).tolist() == pytest.approx([x * x / 2 for x in POINTS])
    assert kl.k3(d).tolist() == pytest.approx([math.exp(-x) - 1 + x for x in POINTS], abs=1e-15)


def test_k3_is_never_negative_and_never_explodes() -> None:
    d = torch.tensor([-1e4, -21.0, -20.0, -19.0, -1e-9, 0.0, 1e-9, 19.0, 21.0, 1e4], requires_grad=True)
    assert d.dtype == torch.float32
    value = kl.k3(d)
    value.sum().backward()
    assert (value >= 0).all() and torch.isfinite(value).all()
    assert d.grad is not None and torch.isfinite(d.grad).all()
    assert d.grad[:2].tolist() == [0.0, 0.0]
    assert d.grad[3:].tolist() == pytest.approx([1 - math.exp(-x) for x in d[3:].tolist()], rel=1e-5, abs=1e-7)
    assert value[1] == value[2] and float(value[2].detach()) == pytest.approx(math.exp(20) - 21)
    assert float(value[-1].detach()) == pytest.approx(1e4 - 1)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased_values_and_k2_is_not(estimator: str) -> None:
    p, q, _ = policies()
    log_p, log_q = p.distribution(torch.tensor([0]))[0], q.distribution(torch.tensor([0]))[0]
    exact = float(kl.exact(log_p, log_q).detach())
    expected = (log_p.exp() * getattr(kl, estimator)(log_p - log_q)).sum()
    assert float(expected.detach()) == pytest.approx(exact, abs=1e-12)
    assert abs(float((log_p.exp() * kl.k2(log_p - log_q)).sum().detach()) - exact) > 1e-3


def test_exact_sums_over_the_support() -> None:
    p, q = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
    want = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(kl.exact(torch.tensor(p, dtype=F64).log(), torch.tensor(q, dtype=F64).log())) == pytest.approx(want)
    both = kl.exact(torch.tensor([p, q], dtype=F64).log(), torch.tensor([q, q], dtype=F64).log())
    assert both.tolist() == pytest.approx([want, 0.0])


def test_exact_where_an_arm_is_impossible() -> None:
    log_p = torch.tensor([0.25, 0.75, 0.0], dtype=F64).log().requires_grad_()
    log_q = torch.tensor([0.5, 0.5, 0.0], dtype=F64).log()
    value = kl.exact(log_p, log_q)
    want = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(value.detach()) == pytest.approx(want)
    value.backward()
    assert log_p.grad is not None and torch.isfinite(log_p.grad).all()
    assert float(kl.exact(log_q, torch.tensor([0.0, 1.0, 0.0], dtype=F64).log())) == math.inf


def test_losses_of_a_batch() -> None:
    batch = make_batch(2)
    logp = make_logp(batch, 2)
    assert batch.logp_reference is not None
    for p in range(3):
        for i in range(4):
            n = int(batch.lengths[p, i])
            d = (logp - batch.logp_reference)[p, i, :n].tolist()
            want = {
                "k2": sum(d) ** 2 / 2,
                "k3": math.exp(-sum(d)) - 1 + sum(d),
                "k2_token": sum(x * x / 2 for x in d),
                "k3_token": sum(math.exp(-x) - 1 + x for x in d),
            }
            for name, value in want.items():
                assert float(kl.loss(logp, batch, name)[p, i]) == pytest.approx(value, rel=1e-12)


def test_an_unknown_or_missing_loss_is_refused() -> None:
    batch = make_batch(2)
    for name in ("k1", "exact"):
        with pytest.raises(UserError, match=f"unknown KL loss '{name}'"):
            kl.loss(make_logp(batch), batch, name)
    for name in ("k2", "k3", "k2_token", "k3_token"):
        with pytest.raises(MissingNeed, match="logp_reference"):
            kl.loss(make_logp(batch), Batch(batch.prompts, batch.responses, batch.mask), name)


def test_penalty_is_minus_the_weighted_log_ratio_of_the_collection() -> None:
    batch = make_batch(5)
    assert batch.logp_proximal is not None and batch.logp_reference is not None
    got = kl.penalty(0.3, batch)
    want = -0.3 * (batch.logp_proximal - batch.logp_reference)
    assert torch.allclose(got[batch.mask], want[batch.mask], atol=1e-15)
    assert got[~batch.mask].abs().sum() == 0 and not got.requires_grad
    for missing in ("logp_proximal", "logp_reference"):
        given = {"logp_proximal": batch.logp_proximal, "logp_reference": batch.logp_reference, missing: None}
        with pytest.raises(UserError, match="needs log-probs of the policy and the reference"):
            kl.penalty(0.3, Batch(batch.prompts, batch.responses, batch.mask, **given))


def test_penalty_takes_one_weight_per_run_and_ignores_padding() -> None:
    batch = make_batch(5)
    both = {k: torch.stack([getattr(batch, k)] * 2) for k in ("responses", "mask", "logp_proximal", "logp_reference")}
    both["logp_reference"] = torch.where(both["mask"], both["logp_reference"], 1e9)
    got = kl.penalty(torch.tensor([0.1, 2.0], dtype=F64), Batch(torch.stack([batch.prompts] * 2), **both))
    for run, weight in enumerate((0.1, 2.0)):
        assert torch.allclose(got[run], kl.penalty(weight, batch), atol=1e-15)


# ------------------------------------------------------------------- expected gradients against enumeration, T = 2


def policies() -> tuple[Categorical, Categorical, Batch]:
    """Policy and reference over 3 arms and 2 tokens, and the group of all 9 responses."""
    p, q = tabular(1, 3, 2, seed=1), tabular(1, 3, 2, seed=2)
    every = p.every_response()[None]
    mask = torch.ones_like(every, dtype=torch.bool)
    batch = Batch(torch.tensor([0]), every, mask)
    reference = q.evaluate(batch).logp.detach()
    return p, q, Batch(torch.tensor([0]), every, mask, logp_reference=reference)


def gradient(value: Tensor, policy: Categorical) -> Tensor:
    return torch.autograd.grad(value, policy.logits)[0]


def expected_loss_gradient(estimator: str) -> Tensor:
    """E_{y~π}[∇ loss(y)]: the sampling weight is frozen, as on-policy training does."""
    p, _, batch = policies()
    logp = p.evaluate(batch).logp
    weight = logp.sum(-1).exp().detach()
    return gradient((weight * kl.loss(logp, batch, estimator)).sum(), p)


def exact_gradient(direction: str) -> Tensor:
    p, q, batch = policies()
    log_p, log_q = p.distribution(batch.prompts), q.distribution(batch.prompts).detach()
    return gradient((kl.exact(log_p, log_q) if direction == "reverse" else kl.exact(log_q, log_p)).sum(), p)


def test_k2_on_samples_has_the_gradient_of_the_reverse_kl() -> None:
    assert torch.allclose(expected_loss_gradient("k2"), exact_gradient("reverse"), atol=1e-13)


def test_k3_on_samples_has_the_gradient_of_the_forward_kl() -> None:
    assert torch.allclose(expected_loss_gradient("k3"), exact_gradient("forward"), atol=1e-13)
    assert (expected_loss_gradient("k3") - exact_gradient("reverse")).abs().max() > 0.05


def test_k2_per_token_lacks_the_effect_on_later_tokens() -> None:
    """It is right in the last token's softmax and wrong in the first token's."""
    right, wrong = exact_gradient("reverse")[0], expected_loss_gradient("k2_token")[0]
    assert torch.allclose(right[1:], wrong[1:], atol=1e-13)
    assert (right[0] - wrong[0]).abs().max() > 0.05


def test_k3_per_token_weighs_prefixes_by_the_wrong_policy() -> None:
    """It is right in the first token's softmax; after token v it has π(v) where KL(π_ref‖π) has π_ref(v)."""
    p, q, _ = policies()
    right, wrong = exact_gradient("forward")[0], expected_loss_gradient("k3_token")[0]
    factor = (p.logits.log_softmax(-1) - q.logits.log_softmax(-1)).exp().detach()[0, 0, :, None]
    assert torch.allclose(right[0], wrong[0], atol=1e-13)
    assert torch.allclose(right[1:] * factor, wrong[1:], atol=1e-13)
    assert (right - wrong).abs().max() > 0.02


def test_the_raw_k1_loss_would_have_no_gradient() -> None:
    p, _, batch = policies()
    d = p.evaluate(batch).logp.sum(-1) - batch.logp_reference.sum(-1)  # type: ignore[union-attr]
    weight = p.evaluate(batch).logp.sum(-1).exp().detach()
    assert gradient((weight * d).sum(), p).abs().max() < 1e-14


def test_the_exact_loss_of_the_policy_is_the_reverse_kl() -> None:
    p, q, batch = policies()
    p.anchor = q.logits.detach()
    value = p.exact_kl(batch)
    assert value.shape == (1, 9)
    assert torch.allclose(value, value[..., :1].expand(1, 9))
    assert torch.allclose(gradient(value[0, 0], p), exact_gradient("reverse"), atol=1e-13)


# ------------------------------------------------------------------------------------------------- mismatched prompts


@pytest.mark.parametrize("stacked", [False, True])
def test_each_prompt_gets_the_responses_of_the_one_before(stacked: bool) -> None:
    responses = torch.arange(2 * 4 * 3 * 5).reshape(2, 4, 3, 5)  # runs, prompts, responses, tokens: all different
    mask, valid = responses % 7 > 0, responses[..., 0] % 4 > 0
    prompts = torch.arange(8.0).reshape(2, 4)
    if not stacked:
        responses, mask, valid, prompts = responses[0], mask[0], valid[0], prompts[0]
    crossed = kl.mismatched(Batch(prompts, responses, mask, valid=valid))
    before = [3, 0, 1, 2]
    assert torch.equal(crossed.prompts, prompts)
    assert torch.equal(crossed.responses, responses[..., before, :, :])
    assert torch.equal(crossed.mask, mask[..., before, :, :])
    assert crossed.valid is not None and torch.equal(crossed.valid, valid[..., before, :])
    assert kl.mismatched(Batch(prompts, responses, mask)).valid is None
