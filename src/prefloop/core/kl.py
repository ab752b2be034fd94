"""KL divergence to the reference: estimators of its value, exact sums, and losses with known gradients.

d = log π − log π_ref throughout, in nats, of samples from π. Log-ratios are clamped before exp.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError, nearest
from prefloop.core.objectives import MAX_LOG_RATIO, LogProbs, PerResponse, implicit_reward, per_run, sequence
from prefloop.core.ranges import Number


def k1(d: Tensor) -> Tensor:
    """d: unbiased for KL(π‖π_ref), signed (Schulman 2020)."""
    return d


def k2(d: Tensor) -> Tensor:
    """d²/2: biased as a value; as an on-policy loss its gradient is that of KL(π‖π_ref)."""
    return d**2 / 2


def k3(d: Tensor) -> Tensor:
    """e^(−d) − 1 + d: unbiased for KL(π‖π_ref) and never negative; as an on-policy loss its gradient is that of
    KL(π_ref‖π) (Schulman 2020). Below d = −20 it is constant, with gradient 0."""
    d = d.clamp(min=-MAX_LOG_RATIO)
    return torch.expm1(-d) + d


def exact(log_p: Float[Tensor, "*B V"], log_q: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """KL(p‖q) summed over the last axis; log-probs of the whole support. Terms with p = 0 are 0."""
    return (log_p.exp() * torch.where(log_p > -torch.inf, log_p - log_q, 0.0)).sum(-1)


Loss = Literal["k2", "k3", "k2_token", "k3_token"]


def loss(logp: LogProbs, batch: Batch, estimator: str) -> PerResponse:
    """A sampled KL loss per response. Expected gradient on samples of π:

    - "k2" (sequence): ∇KL(π‖π_ref), as the regularised objective requires.
    - "k3" (sequence): ∇KL(π_ref‖π), the other direction.
    - "k2_token": summed per token; it ignores the effect of a token on the KL of later ones.
    - "k3_token": summed per token; prefixes are weighted by π, whereas KL(π_ref‖π) weights them by π_ref.

    The raw k1 term is not offered: its expected gradient is 0 for any reference.
    """
    if estimator not in get_args(Loss):
        raise UserError(f"unknown KL loss {estimator!r}", fix=nearest(estimator, get_args(Loss)))
    value, whole = k2 if estimator.startswith("k2") else k3, implicit_reward(logp, batch)
    if not estimator.endswith("_token"):
        return value(whole)
    assert batch.logp_reference is not None  # or there were no implicit reward
    return sequence(value(logp - batch.logp_reference), batch)


def mismatched(batch: Batch) -> Batch:
    """Each prompt with the responses to the one before it; their mean log π/π_ref is KTO's z (arXiv:2402.01306)."""
    responses, mask = (x.roll(1, dims=-3) for x in (batch.responses, batch.mask))
    return Batch(batch.prompts, responses, mask, valid=None if batch.valid is None else batch.valid.roll(1, dims=-2))


def penalty(weight: Number, batch: Batch) -> LogProbs:
    """−kl · log π/π_ref per token, without a gradient: the KL inside the reward. π is `logp_proximal`."""
    if batch.logp_proximal is None or batch.logp_reference is None:
        raise UserError("the KL penalty needs log-probs of the policy and the reference")
    d = torch.where(batch.mask, batch.logp_proximal - batch.logp_reference, 0.0)
    return -per_run(weight, d) * d
