"""What one optimiser step did: numbers for `metrics.jsonl`, named as TRL names them where it has them."""

from __future__ import annotations

import torch
from torch import Tensor

from prefloop.batch import DATASET
from prefloop.loop import Record
from prefloop.methods import Method
from prefloop.objectives import MAX_LOG_RATIO, implicit_reward, log_ratio, pair, sequence


def step_metrics(record: Record, method: Method) -> dict[str, float]:
    """All numbers of a step of one run (no stacked axis)."""
    b = record.batch
    out: dict[str, float | Tensor] = {
        "step": record.step,
        "iteration": record.iteration,
        "pass": record.pass_ + 1,
        "loss": record.loss,
        **{f"loss/{name}": value for name, value in record.regularisers.items()},
        "grad_norm": record.grad_norm,
        "learning_rate": record.lr,
        "completions/mean_length": b.lengths[b.present].float().mean(),
        "samples": record.samples,
        "tokens/sampled": record.sampled_tokens,
        "tokens/trained": record.trained_tokens,
        "reward_queries": record.queries,
        **coefficient_mass(record.coefficient),
    }
    if b.source is not None:
        fresh = b.source != DATASET
        out["on_policy"] = fresh.float().mean()
        if bool(fresh.any()):
            out["staleness"] = (record.step - 1 - b.source[fresh]).float().mean()
    if b.scores is not None:
        n = b.present.sum(-1, keepdim=True)
        centred = torch.where(b.present, b.scores - (b.scores * b.present).sum(-1, keepdim=True) / n, 0.0)
        spread = ((centred**2).sum(-1) / (n[..., 0] - 1).clamp(min=1)).sqrt()
        out |= {"reward": b.scores[b.present].mean(), "reward_std": spread.mean()}
        out["frac_reward_zero_std"] = (spread == 0).float().mean()
    if b.logp_proximal is not None:
        out |= ratio_metrics(record, method)
    if "behaviour" in method.needs and b.logp_proximal is not None and b.logp_behaviour is not None:
        d = torch.where(b.mask, b.logp_proximal - b.logp_behaviour, 0.0)[b.mask]
        weight = d.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        out |= {"mismatch/mean": weight.mean(), "mismatch/max": weight.max()}
    out |= _pair_metrics(record, float(method.defaults.get("beta", 1.0)))
    return {k: float(v) for k, v in out.items()}


def coefficient_mass(coefficient: Tensor) -> dict[str, Tensor]:
    """How much the step pulled up and pushed down: Σ max(c, 0) and Σ max(−c, 0) over tokens."""
    return {"push/up": coefficient.clamp(min=0).sum(), "push/down": (-coefficient).clamp(min=0).sum()}


def ratio_metrics(record: Record, method: Method) -> dict[str, Tensor]:
    """How far the policy is from the one that is being reused: tails, clip fraction, effective sample size.

    `ess` is (Σw)²/(n Σw²) of sequence-level ratios, 1 while nothing has moved; `kl/collection` estimates
    KL(π_collection‖π) in nats per response.
    """
    b = record.batch
    d = log_ratio(record.logp, b)
    rho, total = d[b.mask].exp(), sequence(d, b)[b.present].clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    w = total.exp()
    return {
        "ratio/max": rho.max(),
        "ratio/p99": rho.quantile(0.99) if len(rho) < 2**24 else rho.max(),
        "clip_ratio": _clipped(rho, record, method).float().mean(),
        "ess": w.sum() ** 2 / (len(w) * (w**2).sum()),
        "kl/collection": -total.mean(),
    }


def _clipped(rho: Tensor, record: Record, method: Method) -> Tensor:
    """Tokens that PPO's clip takes out of the gradient; of rows without an advantage, those outside the range."""
    low = float(method.defaults.get("clip", 0.2))
    high = float(method.defaults.get("clip_high") or low)
    above, below = rho > 1 + high, rho < 1 - low
    weight = record.signal.weight
    if weight is None:
        return above | below
    mask = record.batch.mask
    advantage = (weight if weight.ndim == mask.ndim else weight[..., None].expand(mask.shape))[mask]
    return (above & (advantage > 0)) | (below & (advantage < 0))


def _pair_metrics(record: Record, beta: float) -> dict[str, Tensor]:
    b, signal = record.batch, record.signal
    out: dict[str, Tensor] = {}
    if b.logp_reference is not None:
        out["kl"] = implicit_reward(record.logp, b)[b.present].mean()
    if signal.pairs is None or signal.pair_weight is None or not bool((signal.pair_weight > 0).any()):
        return out
    there = signal.pair_weight > 0
    chosen, rejected = (x[there] for x in pair(sequence(record.logp, b), signal))
    out |= {"logps/chosen": chosen.mean(), "logps/rejected": rejected.mean()}
    if b.logp_reference is not None:
        chosen, rejected = (beta * x[there] for x in pair(implicit_reward(record.logp, b), signal))
        gap = chosen - rejected
        right = (gap > 0).float() + 0.5 * (gap == 0).float()
        out |= {"rewards/chosen": chosen.mean(), "rewards/rejected": rejected.mean()}
        out |= {"rewards/margins": gap.mean(), "rewards/accuracies": right.mean()}
    return out
