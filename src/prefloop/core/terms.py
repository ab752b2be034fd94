"""Additional terms of the loss (KL, entropy, likelihood, value), and the correction for the sampler."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.core import kl, weights
from prefloop.core.batch import Batch, Signal
from prefloop.core.method import Method
from prefloop.core.objectives import MAX_LOG_RATIO, sequence
from prefloop.core.protocols import Enumerable, Evaluation, Policy


def is_active(weight: float | Tensor) -> bool:
    """Whether a term's weight is above 0; a tensor of one weight per stacked run always counts as active."""
    return isinstance(weight, Tensor) or weight > 0


def corrected(method: Method, signal: Signal, batch: Batch) -> Signal:
    """Weights times the importance weight of the policy against its sampler, capped, if the method asks for it.

    The weight of a whole response makes the gradient that of responses of the policy itself where the cap is never
    reached; that of a token does so only for responses of one token.
    """
    if method.mismatch_cap is None or batch.logp_proximal is None or batch.logp_behaviour is None:
        return signal
    level = method.defaults.get("level") if method.mismatch_level == "auto" else method.mismatch_level
    size = {"sequence": torch.tensor(1), "geometric": batch.lengths.clamp(min=1)}.get(str(level))
    cap, d = method.mismatch_cap, torch.where(batch.mask, batch.logp_proximal - batch.logp_behaviour, 0.0)
    factor = (d if size is None else d.sum(-1) / size).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    factor = torch.where(factor > cap, cap if method.mismatch_above == "truncate" else 0.0, factor)

    def times(weight: Tensor | None) -> Tensor | None:
        return None if weight is None else factor * (weight if weight.ndim == factor.ndim else weight[..., None])

    return replace(signal, weight=times(signal.weight), kl_weight=times(signal.kl_weight))


def other_terms(
    method: Method,
    seen: Evaluation,
    policy: Policy,
    batch: Batch,
    signal: Signal,
    total: Float[Tensor, "*S"],
    present: Int[Tensor, "*S"],
) -> dict[str, Float[Tensor, "*S"]]:
    """The weighted terms that switch and ledger do not cover: KL, entropy bonus, auxiliary likelihood, value loss."""
    terms: dict[str, Tensor] = {}
    if signal.kl_weight is not None:
        terms["kl"] = method.penalty_loss(seen.logp, batch, signal, total)
    elif is_active(method.kl) and method.kl_in == "loss":
        if method.kl_estimator == "exact":
            assert isinstance(policy, Enumerable)
            per_response = policy.exact_kl(batch)
        else:
            per_response = kl.loss(seen.logp, batch, method.kl_estimator)
        terms["kl"] = method.kl * mean_over(per_response, batch.present, present)
    if seen.entropy is not None and method.entropy > 0:
        terms["entropy"] = -method.entropy * mean_over(sequence(seen.entropy, batch), batch.present, present)
    if method.sft > 0:
        best = weights.best_only(batch)
        terms["sft"] = -method.sft * mean_over(best * sequence(seen.logp, batch), batch.present, present)
    if seen.values is not None and signal.value_target is not None:
        error = torch.where(batch.mask, (seen.values - signal.value_target) ** 2 / 2, 0.0).sum(-1)
        terms["value"] = method.value_weight * mean_over(error / batch.lengths.clamp(min=1), batch.present, present)
    return terms


def mean_over(x: Tensor, where: Bool[Tensor, "*S P G"], count: Int[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Sum over the responses in `where`, per run, divided by a count that micro-batches share."""
    return torch.where(where, x, 0.0).sum((-2, -1)) / count
