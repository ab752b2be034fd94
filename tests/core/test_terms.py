"""Terms beside the method's own and the correction for the sampler: each against its formula, token by token."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prefloop.core.batch import Batch, Signal
from prefloop.core.methods import METHODS, Method
from prefloop.core.protocols import Evaluation
from prefloop.core.terms import corrected, is_active, mean_over, other_terms
from toys import F64, make_batch, make_logp, tabular

PLAIN = METHODS["rloo"]


def test_a_switch_counts_where_it_is_above_0_or_one_per_run() -> None:
    assert is_active(0.25) and is_active(torch.zeros(2)) and not is_active(0.0)


# ------------------------------------------------------------------------------------------ correction for the sampler


def sampled() -> Batch:
    """One prompt, two responses of two and one tokens; π/π_sampler is e^0.5, e^−1 and e^30."""
    mask = torch.tensor([[[True, True], [True, False]]])
    proximal = torch.tensor([[[-1.0, -2.0], [-1.0, 7.0]]], dtype=F64)
    behaviour = torch.tensor([[[-1.5, -1.0], [-31.0, 3.0]]], dtype=F64)
    return Batch(torch.zeros(1), torch.zeros_like(mask).long(), mask, logp_behaviour=behaviour, logp_proximal=proximal)


def row(cap: float | None, level: str = "token") -> Method:
    return PLAIN.override(mismatch_cap=cap, level=level)


def test_weights_are_corrected_token_by_token() -> None:
    signal = Signal(weight=torch.tensor([[2.0, -1.0]], dtype=F64))
    got = corrected(row(1.5), signal, sampled())
    want = torch.tensor([[[2 * 1.5, 2 * math.exp(-1)], [-1.5, -1.0]]], dtype=F64)  # 1 off the mask
    assert got.weight is not None and torch.allclose(got.weight, want, atol=1e-15) and got.kl_weight is None
    factor = torch.tensor([[[math.exp(0.5), math.exp(-1)], [math.exp(0.6), 1.0]]], dtype=F64)
    for share in (torch.tensor([[3.0, 0.5]], dtype=F64), torch.tensor([[[3.0, 4.0], [0.5, 0.0]]], dtype=F64)):
        got = corrected(row(math.exp(0.6)), Signal(weight=2 * share, kl_weight=share), sampled())
        want = factor * (share if share.ndim == 3 else share[..., None])
        assert torch.allclose(got.weight, 2 * want, atol=1e-15)  # type: ignore[arg-type]
        assert torch.allclose(got.kl_weight, want, atol=1e-15)  # type: ignore[arg-type]


def test_weights_are_corrected_response_by_response_where_the_ratio_is() -> None:
    signal = Signal(weight=torch.tensor([[2.0, -1.0]], dtype=F64))
    got = corrected(row(1e99, "sequence"), signal, sampled())
    assert got.weight is not None and got.weight.flatten().tolist() == pytest.approx(
        [2 * math.exp(-0.5), -math.exp(20)]
    )


def test_log_ratios_are_clamped_on_both_sides() -> None:
    batch = sampled()
    turned = replace(batch, logp_behaviour=batch.logp_proximal, logp_proximal=batch.logp_behaviour)
    got = corrected(row(1e99), Signal(weight=torch.ones(1, 2, dtype=F64)), turned)
    assert got.weight is not None and float(got.weight[0, 1, 0]) == pytest.approx(math.exp(-20))


def test_nothing_is_corrected_where_the_row_or_the_batch_does_not_ask_for_it() -> None:
    batch, signal = sampled(), Signal(weight=torch.ones(1, 2, dtype=F64))
    assert corrected(row(None), signal, batch) is signal
    assert corrected(row(1.5), replace(signal, weight=None), batch).weight is None
    for missing in ("logp_behaviour", "logp_proximal"):
        assert corrected(row(1.5), signal, replace(batch, **{missing: None})) is signal


CAPPED = {  # e^0.5, e^−1 | e^30, clamped to e^20: each token, their product, their geometric mean; cap 1.5
    ("truncate", "token"): [[1.5, math.exp(-1)], [1.5, 1.0]],
    ("truncate", "sequence"): [[math.exp(-0.5)], [1.5]],
    ("truncate", "geometric"): [[math.exp(-0.25)], [1.5]],
    ("mask", "token"): [[0.0, math.exp(-1)], [0.0, 1.0]],
    ("mask", "sequence"): [[math.exp(-0.5)], [0.0]],
    ("mask", "geometric"): [[math.exp(-0.25)], [0.0]],
}


@pytest.mark.parametrize(("above", "level"), CAPPED)
def test_weights_above_the_cap_are_truncated_or_masked(above: str, level: str) -> None:
    method = PLAIN.override(mismatch_cap=1.5, mismatch_above=above, mismatch_level=level)
    got = corrected(method, Signal(weight=torch.tensor([[2.0, -3.0]], dtype=F64)), sampled()).weight
    want = torch.tensor(CAPPED[above, level], dtype=F64) * torch.tensor([[2.0], [-3.0]], dtype=F64)
    assert got is not None and torch.allclose(got.view(2, -1), want, atol=1e-15)


def gradient(probabilities: Tensor, weights: Tensor) -> Tensor:
    """Σ_y q(y) w(y) ∇log p(y) over all responses of two tokens, as the coefficient of each log p(y_t | y_<t)."""
    return (probabilities[:, None] * weights).flatten()


@pytest.mark.parametrize(
    ("above", "level", "cap", "unbiased"),
    [
        ("truncate", "sequence", 100.0, True),
        ("mask", "sequence", 100.0, True),
        ("truncate", "token", 100.0, False),
        ("truncate", "geometric", 100.0, False),
        ("truncate", "sequence", 1.2, False),
        ("mask", "sequence", 1.2, False),
    ],
)
def test_the_corrected_gradient_over_all_responses(above: str, level: str, cap: float, unbiased: bool) -> None:
    """E_q[w(y) A(y) ∇log p(y)] is E_p[A(y) ∇log p(y)] where w is the whole ratio and the cap is not reached."""
    g = torch.Generator().manual_seed(4)
    first, then = torch.randn(2, 3, generator=g, dtype=F64), torch.randn(2, 3, 3, generator=g, dtype=F64)
    a, b = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    logp, logq = (
        torch.stack([x.log_softmax(-1)[a], y.log_softmax(-1)[a, b]], -1) for x, y in zip(first, then, strict=True)
    )
    gain = torch.randn(9, generator=g, dtype=F64)
    mask = torch.ones(1, 9, 2, dtype=torch.bool)
    batch = Batch(torch.zeros(1), mask.long(), mask, logp_behaviour=logq[None], logp_proximal=logp[None])
    method = PLAIN.override(mismatch_cap=cap, mismatch_above=above, mismatch_level=level)
    weight = corrected(method, Signal(weight=gain[None]), batch).weight
    assert weight is not None
    weight = (weight if weight.ndim == 3 else weight[..., None]).expand(1, 9, 2)[0]
    got = gradient(logq.sum(-1).exp(), weight)
    want = gradient(logp.sum(-1).exp(), gain[:, None].expand(9, 2))
    # all responses that share a first token share its log-prob: their coefficients are added before they are compared
    got, want = (torch.cat([x.view(3, 3, 2)[..., 0].sum(1), x.view(9, 2)[:, 1]]) for x in (got, want))
    assert torch.allclose(got, want, atol=1e-14) is unbiased


# ------------------------------------------------------------------------------------------------------------ the terms


def terms(method: Method, batch: Batch, signal: Signal | None = None, **seen: Tensor) -> dict[str, Tensor]:
    total = torch.tensor(2.0, dtype=F64)
    evaluation = Evaluation(**{"logp": make_logp(batch), **seen})
    signal = Signal() if signal is None else signal
    return other_terms(method, evaluation, tabular(), batch, signal, total, torch.tensor(7))


def present(batch: Batch) -> list[tuple[int, int]]:
    return [(p, g) for p, g in batch.present.nonzero().tolist()]


def test_nothing_stands_beside_a_plain_method() -> None:
    batch = make_batch(1)
    extra = {"entropy": make_logp(batch).abs(), "values": make_logp(batch)}
    assert terms(PLAIN, batch, **extra) == {}
    assert terms(PLAIN, batch, Signal(value_target=batch.values)) == {}
    assert terms(PLAIN.override(entropy=0.5, kl=0.3), batch) == {}  # no entropy was asked for; the KL is in the reward


def test_the_kl_is_a_mean_over_all_responses_of_the_optimiser_batch() -> None:
    batch = make_batch(2, ragged=True)
    d = make_logp(batch) - batch.logp_reference
    want = sum(0.6 * float(d[p, g].sum()) ** 2 / 2 for p, g in present(batch)) / 7
    assert set(got := terms(PLAIN.override(kl=0.6, kl_in="loss"), batch)) == {"kl"}
    assert float(got["kl"]) == pytest.approx(want)


def test_the_share_of_the_penalty_comes_before_a_kl_in_the_loss() -> None:
    batch = replace(make_batch(3), penalty=None)
    signal = Signal(weight=batch.scores, kl_weight=batch.scores)
    got = terms(PLAIN, batch, signal)["kl"]
    assert torch.equal(got, PLAIN.penalty_loss(make_logp(batch), batch, signal, torch.tensor(2.0, dtype=F64)))


@pytest.mark.parametrize("weight", [0.2, 3.0])
def test_entropy_and_likelihood_pull_up(weight: float) -> None:
    batch = make_batch(4, ragged=True)
    assert batch.scores is not None
    entropy, logp = torch.where(batch.mask, batch.logp_reference.abs(), 9.0), make_logp(batch)  # type: ignore[union-attr]
    got = terms(PLAIN.override(entropy=weight, sft=weight), batch, entropy=entropy)
    assert set(got) == {"entropy", "sft"}
    sums = [float(torch.where(batch.mask, entropy, 0.0)[p, g].sum()) for p, g in present(batch)]
    assert float(got["entropy"]) == pytest.approx(-weight * sum(sums) / 7)
    best = batch.scores.masked_fill(~batch.present, -math.inf).argmax(-1).tolist()
    assert float(got["sft"]) == pytest.approx(-weight * sum(float(logp[p, g].sum()) for p, g in enumerate(best)) / 7)


def test_the_value_loss_is_half_the_squared_error_averaged_over_tokens() -> None:
    batch = make_batch(5, ragged=True)
    assert batch.values is not None
    batch = replace(batch, mask=batch.mask.index_fill(1, torch.tensor([3]), False))  # responses without a token
    target, seen = batch.values.flip(-1) + 1, batch.values
    got = terms(METHODS["ppo"].override(kl=0.0, value_weight=0.4), batch, Signal(value_target=target), values=seen)
    want = 0.0
    for p, g in present(batch):
        n = int(batch.lengths[p, g])
        want += float(((seen - target)[p, g, :n] ** 2).sum()) / 2 / max(n, 1)
    assert float(got["value"]) == pytest.approx(0.4 * want / 7)


def test_a_mean_is_a_runs_own() -> None:
    x, where = torch.arange(12.0).view(2, 2, 3), torch.ones(2, 2, 3, dtype=torch.bool)
    where[0, 0, 1] = False
    assert mean_over(x, where, torch.tensor([2, 3])).tolist() == [(15 - 1) / 2, 51 / 3]
