"""What one optimiser step did: numbers for `metrics.jsonl`, named as TRL names them where it has them.

Every number reduces within its own run: of one run it is a scalar, of stacked runs [S].
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.core.batch import DATASET
from prefloop.core.loop import Record
from prefloop.core.methods import Method
from prefloop.core.objectives import MAX_LOG_RATIO, implicit_reward, log_ratio, pair, per_run, sequence

GROUPS, TOKENS = (-2, -1), (-3, -2, -1)


def step_metrics(record: Record, method: Method) -> dict[str, float]:
    """All numbers of a step of one run (no stacked axis)."""
    return {k: float(v) for k, v in run_metrics(record, method).items() if not torch.as_tensor(v).isnan().any()}


def run_metrics(record: Record, method: Method) -> dict[str, int | float | Tensor]:
    """All numbers of a step, [*S] each or the same for all runs; nan where a run has nothing to measure."""
    b = record.batch
    out: dict[str, int | float | Tensor] = {
        "step": record.step,
        "iteration": record.iteration,
        "pass": record.pass_ + 1,
        "loss": record.loss,
        **{f"loss/{name}": value for name, value in record.regularisers.items()},
        "grad_norm": record.grad_norm,
        "learning_rate": record.lr,
        "completions/mean_length": mean(b.lengths, b.present, GROUPS),
        "samples": record.samples,
        "tokens/sampled": record.sampled_tokens,
        "tokens/trained": record.trained_tokens,
        "reward_queries": record.queries,
        **coefficient_mass(record.coefficient),
    }
    if b.source is not None:
        fresh = b.source != DATASET
        out["on_policy"] = mean(fresh, torch.ones_like(fresh), -1)
        if bool(fresh.any()):
            out["staleness"] = mean(record.step - 1 - b.source, fresh, -1)
    if b.scores is not None:
        n = b.present.sum(-1, keepdim=True)
        centred = torch.where(b.present, b.scores - (b.scores * b.present).sum(-1, keepdim=True) / n, 0.0)
        spread = ((centred**2).sum(-1) / (n[..., 0] - 1).clamp(min=1)).sqrt()
        out |= {"reward": mean(b.scores, b.present, GROUPS), "reward_std": spread.mean(-1)}
        out["frac_reward_zero_std"] = (spread == 0).to(spread).mean(-1)
    if record.used.logp_proximal is not None:
        out |= ratio_metrics(record, method)
    return out | _mismatch(record, method) | _pair_metrics(record, method.defaults.get("beta", 1.0))


def mean(x: Tensor, where: Bool[Tensor, "*B"], over: int | tuple[int, ...]) -> Tensor:
    """Mean over some axes of what a mask keeps; nan where it keeps nothing."""
    kind = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return torch.where(where, x, 0).to(kind).sum(over) / where.sum(over)


def coefficient_mass(coefficient: Float[Tensor, "*S P G T"]) -> dict[str, Tensor]:
    """How much the step pulled up and pushed down: Σ max(c, 0) and Σ max(−c, 0) over tokens."""
    up, down = coefficient.clamp(min=0).sum(TOKENS), (-coefficient).clamp(min=0).sum(TOKENS)
    return {"push/up": up, "push/down": down}


def ratio_metrics(record: Record, method: Method) -> dict[str, Tensor]:
    """How far the policy is from the one that is being reused: tails, clip fraction, effective sample size.

    `ess` is (Σw)²/(n Σw²) of sequence-level ratios, 1 while nothing has moved; `kl/collection` estimates
    KL(π_collection‖π) in nats per response. All over the responses that the loss used.
    """
    b = record.used
    mask, present = b.mask & b.present[..., None], b.present
    d = log_ratio(record.logp, b)
    total = sequence(d, b).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    w = torch.where(present, total.exp(), 0.0)
    return {
        **ratio_tail(d, mask),
        "clip_ratio": mean(_clipped(d.exp(), record, method), mask, TOKENS),
        "ess": w.sum(GROUPS) ** 2 / (present.sum(GROUPS) * (w**2).sum(GROUPS)),
        "kl/collection": -mean(total, present, GROUPS),
    }


def ratio_tail(d: Float[Tensor, "*S P G T"], mask: Bool[Tensor, "*S P G T"]) -> dict[str, Tensor]:
    """Largest and 99th percentile of the token ratios e^d (the largest of huge batches, which quantile refuses)."""
    rho = torch.where(mask, d.exp(), torch.nan).flatten(-3)
    largest = torch.where(mask, d.exp(), 0.0).amax(TOKENS)
    return {"ratio/max": largest, "ratio/p99": rho.nanquantile(0.99, dim=-1) if rho.numel() < 2**24 else largest}


def _clipped(rho: Tensor, record: Record, method: Method) -> Bool[Tensor, "*S P G T"]:
    """Tokens that PPO's clip takes out of the gradient; of rows without an advantage, those outside the range."""
    low = per_run(method.defaults.get("clip", 0.2), rho)
    high = method.defaults.get("clip_high")
    above, below = rho > 1 + (low if high is None else per_run(high, rho)), rho < 1 - low
    weight = record.signal.weight
    if weight is None:
        return above | below
    advantage = weight if weight.ndim == rho.ndim else weight[..., None]
    return (above & (advantage > 0)) | (below & (advantage < 0))


def _mismatch(record: Record, method: Method) -> dict[str, Tensor]:
    """Weight of the trainer's policy against its sampler, of rows that read it."""
    b = record.used
    if "behaviour" not in method.needs or b.logp_proximal is None or b.logp_behaviour is None:
        return {}
    d = torch.where(b.mask, b.logp_proximal - b.logp_behaviour, 0.0)
    weight, there = d.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), b.mask & b.present[..., None]
    return {"mismatch/mean": mean(weight, there, TOKENS), "mismatch/max": torch.where(there, weight, 0.0).amax(TOKENS)}


def _pair_metrics(record: Record, beta: float | Tensor) -> dict[str, Tensor]:
    b, signal = record.used, record.signal
    out: dict[str, Tensor] = {}
    if b.logp_reference is not None:
        out["kl"] = mean(implicit_reward(record.logp, b), b.present, GROUPS)
    if signal.pairs is None or signal.pair_weight is None:
        return out
    there = signal.pair_weight > 0
    chosen, rejected = (mean(x, there, GROUPS) for x in pair(sequence(record.logp, b), signal))
    out |= {"logps/chosen": chosen, "logps/rejected": rejected}
    if b.logp_reference is not None:
        chosen, rejected = (per_run(beta, x) * x for x in pair(implicit_reward(record.logp, b), signal))
        gap = chosen - rejected
        right = (gap > 0).to(gap) + 0.5 * (gap == 0).to(gap)
        out |= {"rewards/chosen": mean(chosen, there, GROUPS), "rewards/rejected": mean(rejected, there, GROUPS)}
        out |= {"rewards/margins": mean(gap, there, GROUPS), "rewards/accuracies": mean(right, there, GROUPS)}
    return out
