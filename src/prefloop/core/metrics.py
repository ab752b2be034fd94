"""The functions that measure the step metrics of `metric_table`.

Every number is reduced within its own run: a scalar for one run, [S] for stacked runs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.core.batch import DATASET, Batch
from prefloop.core.loop import Record
from prefloop.core.method import Method
from prefloop.core.objectives import (
    MAX_LOG_RATIO,
    LogProbs,
    implicit_reward,
    log_ratio,
    pair,
    per_run,
    sequence,
)

GROUPS, TOKENS = (-2, -1), (-3, -2, -1)
Number = int | float | Tensor  # [*S], or one for all runs
Measure = Callable[[Record, Method], tuple[Number | None, ...] | None]
MEASURES: dict[tuple[str, ...], Measure] = {}  # keys of the table -> the function that measures them


def measures(*keys: str) -> Callable[[Measure], Measure]:
    """Declare the keys of a function's values; None, for all or for one, means that there is nothing to measure."""

    def register(function: Measure) -> Measure:
        MEASURES[keys] = function
        return function

    return register


def step_metrics(record: Record, method: Method) -> dict[str, float]:
    """All numbers of a step of one run (no stacked axis), without those that are nan."""
    return {k: float(v) for k, v in run_metrics(record, method).items() if not torch.as_tensor(v).isnan().any()}


def run_metrics(record: Record, method: Method) -> dict[str, Number]:
    """All numbers of a step, [*S] each or one for all runs; nan if a run has nothing to measure."""
    out: dict[str, Number] = {}
    for keys, function in MEASURES.items():
        values = function(record, method)
        if values is not None:
            out |= {key: value for key, value in zip(keys, values, strict=True) if value is not None}
    return out


def mean(x: Tensor, where: Bool[Tensor, "*B"], over: int | tuple[int, ...]) -> Tensor:
    """Mean over some axes of the entries that a mask selects; nan if it selects none."""
    kind = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    return torch.where(where, x, 0).to(kind).sum(over) / where.sum(over)


# --------------------------------------------------------------------------------------------------- the step itself


@measures("step", "iteration", "pass")
def _place(record: Record, method: Method) -> tuple[Number, ...]:
    return record.step, record.iteration, record.pass_ + 1


@measures("loss", "loss/kl", "loss/entropy", "loss/sft", "loss/value")
def _losses(record: Record, method: Method) -> tuple[Number | None, ...]:
    return record.loss, *(record.regularisers.get(name) for name in ("kl", "entropy", "sft", "value"))


@measures("grad_norm", "learning_rate")
def _descent(record: Record, method: Method) -> tuple[Number, ...]:
    return record.grad_norm, record.lr


@measures("completions/mean_length")
def _length(record: Record, method: Method) -> tuple[Number, ...]:
    return (mean(record.batch.lengths, record.batch.present, GROUPS),)


@measures("samples", "tokens/sampled", "tokens/trained", "reward_queries")
def _cost(record: Record, method: Method) -> tuple[Number, ...]:
    return record.samples, record.sampled_tokens, record.trained_tokens, record.queries


@measures("push/up", "push/down")
def _push(record: Record, method: Method) -> tuple[Number, ...]:
    return coefficient_mass(record.coefficient)


def coefficient_mass(coefficient: Float[Tensor, "*S P G T"]) -> tuple[Tensor, Tensor]:
    """How much the step pulled up and pushed down: Σ max(c, 0) and Σ max(−c, 0) over tokens."""
    return coefficient.clamp(min=0).sum(TOKENS), (-coefficient).clamp(min=0).sum(TOKENS)


# ------------------------------------------------------------------------------------------------- what it trained on


@measures("on_policy", "staleness")
def _source(record: Record, method: Method) -> tuple[Number | None, ...] | None:
    source = record.batch.source
    if source is None:
        return None
    fresh = source != DATASET
    age = mean(record.step - 1 - source, fresh, -1) if bool(fresh.any()) else None
    return mean(fresh, torch.ones_like(fresh), -1), age


@measures("reward", "reward_std", "frac_reward_zero_std")
def _reward(record: Record, method: Method) -> tuple[Number, ...] | None:
    """Mean score, and the spread of scores within groups of two or more responses."""
    scores, present = record.batch.scores, record.batch.present
    if scores is None:
        return None
    n = present.sum(-1)
    centre = torch.where(present, scores, 0.0).sum(-1, keepdim=True) / n[..., None]
    variance = torch.where(present, scores - centre, 0.0).square().sum(-1) / (n - 1)
    highest = torch.where(present, scores, -torch.inf).amax(-1)
    equal = (highest == torch.where(present, scores, torch.inf).amin(-1)).to(scores)
    return mean(scores, present, GROUPS), mean(variance.sqrt(), n > 1, -1), mean(equal, n > 1, -1)


@measures("responses/effective")
def _effective(record: Record, method: Method) -> tuple[Number, ...] | None:
    weight = record.signal.weight
    if weight is None or not getattr(method.objective, "supervised", False):
        return None
    return (weight.sum(GROUPS) ** 2 / weight.square().sum(GROUPS),)


# --------------------------------------------------------------------------------------------- how far it has moved


@measures("kl")
def _kl(record: Record, method: Method) -> tuple[Number, ...] | None:
    b = record.used
    return None if b.logp_reference is None else (mean(implicit_reward(record.logp, b), b.present, GROUPS),)


QUANTILE_LIMIT = 2**24  # torch.quantile accepts no more elements
DRIFT = ("ratio/max", "ratio/p99", "ess", "kl/collection")


@measures(*DRIFT)
def _drift(record: Record, method: Method) -> tuple[Number, ...] | None:
    return None if record.used.logp_proximal is None else drift(record.logp, record.used)


def drift(logp: LogProbs, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How far the policy is from the one at collection, in the order of DRIFT.

    The largest token ratio and its 99th percentile (for batches too large for quantile, the largest); the effective
    sample size (Σw)²/(n Σw²) of sequence ratios, 1 before any update (Kong 1992); and the estimate of
    KL(π_collection‖π) in nats per response, −mean log w.
    """
    mask, present = batch.mask & batch.present[..., None], batch.present
    d = log_ratio(logp, batch)
    rho, largest = torch.where(mask, d.exp(), torch.nan).flatten(-3), torch.where(mask, d.exp(), 0.0).amax(TOKENS)
    total = sequence(d, batch).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    w = torch.where(present, total.exp(), 0.0)
    ess = w.sum(GROUPS) ** 2 / (present.sum(GROUPS) * (w**2).sum(GROUPS))
    p99 = rho.nanquantile(0.99, dim=-1) if rho.shape[-1] <= QUANTILE_LIMIT else largest
    return largest, p99, ess, -mean(total, present, GROUPS)


@measures("clip_ratio/region_mean")
def _clip_ratio(record: Record, method: Method) -> tuple[Number, ...] | None:
    b = record.used
    if b.logp_proximal is None:
        return None
    clipped = _clipped(log_ratio(record.logp, b).exp(), record, method)
    return (mean(clipped, b.mask & b.present[..., None], TOKENS),)


def _clipped(rho: Tensor, record: Record, method: Method) -> Bool[Tensor, "*S P G T"]:
    """Tokens that PPO's clip removes from the gradient; for methods without an advantage, those outside the range."""
    low = per_run(method.defaults.get("clip", 0.2), rho)
    high = method.defaults.get("clip_high")
    above, below = rho > 1 + (low if high is None else per_run(high, rho)), rho < 1 - low
    weight = record.signal.weight
    if weight is None:
        return above | below
    advantage = weight if weight.ndim == rho.ndim else weight[..., None]
    return (above & (advantage > 0)) | (below & (advantage < 0))


@measures("mismatch/mean", "mismatch/max", "mismatch/std", "mismatch/kl", "sampling/sampling_logp_difference/mean")
def _mismatch(record: Record, method: Method) -> tuple[Number, ...] | None:
    """Importance weight of the trainer's policy against its sampler, for methods that read it.

    Its mean is 1 in expectation for any two policies, E_q[p/q] = 1; how far apart they are shows in the logarithm.
    """
    b = record.used
    if "behaviour" not in method.needs or b.logp_proximal is None or b.logp_behaviour is None:
        return None
    d = b.logp_proximal - b.logp_behaviour
    weight, there = d.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), b.mask & b.present[..., None]
    centre = mean(weight, there, TOKENS)
    spread = mean((weight - per_run(centre, weight)).square(), there, TOKENS).sqrt()
    largest = torch.where(there, weight, 0.0).amax(TOKENS)
    return centre, largest, spread, mean(-d, there, TOKENS), mean(d.abs(), there, TOKENS)


# --------------------------------------------------------------------------------------------------------- its pairs


@measures("logps/chosen", "logps/rejected")
def _logps(record: Record, method: Method) -> tuple[Number, ...] | None:
    signal = record.signal
    if signal.pairs is None or signal.pair_weight is None:
        return None
    chosen, rejected = pair(sequence(record.logp, record.used), signal)
    return tuple(mean(x, signal.pair_weight > 0, GROUPS) for x in (chosen, rejected))


@measures("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
def _rewards(record: Record, method: Method) -> tuple[Number, ...] | None:
    b, signal = record.used, record.signal
    if signal.pairs is None or signal.pair_weight is None or b.logp_reference is None:
        return None
    beta = method.defaults.get("beta", 1.0)
    chosen, rejected = (per_run(beta, x) * x for x in pair(implicit_reward(record.logp, b), signal))
    gap = chosen - rejected
    right = (gap > 0).to(gap) + 0.5 * (gap == 0).to(gap)
    return tuple(mean(x, signal.pair_weight > 0, GROUPS) for x in (chosen, rejected, gap, right))
