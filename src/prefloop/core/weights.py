"""How much each response counts: functions from a scored batch to weights [*S, P, G], or per token [*S, P, G, T].

Weights carry no gradient and are computed once per collection. A positive weight pulls a response up, a negative
one pushes it down. Every statistic is computed within its own run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch, MissingNeed, reads
from prefloop.core.errors import UserError, nearest
from prefloop.core.objectives import per_run
from prefloop.core.ranges import Number, OnePositive, OneShare, Positive, Share

Baseline = Literal["none", "batch", "running", "prompt", "leave_one_out", "values"]
PerResponse = Float[Tensor, "*S P G"]
State = Mapping[str, Tensor]  # running moments of the rewards of earlier collections: count [*S], mean [*S]


def _mean(x: Tensor, present: Tensor, dims: int) -> Tensor:
    """Mean of the present entries over the last `dims` axes, axes kept."""
    over = tuple(range(-dims, 0))
    count = present.sum(over, keepdim=True).clamp(min=1)
    return torch.where(present, x, 0.0).sum(over, keepdim=True) / count


def _std(x: Tensor, present: Tensor, dims: int) -> Tensor:
    """Sample standard deviation (n − 1) over the last `dims` axes, axes kept; 0 where n = 1."""
    n = present.sum(tuple(range(-dims, 0)), keepdim=True)
    variance = _mean((x - _mean(x, present, dims)) ** 2, present, dims) * n / (n - 1).clamp(min=1)
    return variance.sqrt()


def _only(x: PerResponse, batch: Batch) -> PerResponse:
    return torch.where(batch.present, x, 0.0)


def _groups(batch: Batch, why: str) -> None:
    if batch.mask.shape[-2] < 2:
        raise UserError(f"{why} compares responses to the same prompt, but each has only one", fix="responses >= 2")


# ------------------------------------------------------------------------------------------------------- supervised


@reads()
def uniform(batch: Batch) -> PerResponse:
    """1 on every response (SFT)."""
    return _only(torch.ones_like(batch.mask[..., 0], dtype=torch.get_default_dtype()), batch)


@reads("scores")
def best_only(batch: Batch) -> PerResponse:
    """1 on the best response of each prompt, shared equally among ties (Pref-FT, best-of-N)."""
    returns = batch.returns.masked_fill(~batch.present, -math.inf)
    best = _only((returns == returns.amax(-1, keepdim=True)).to(batch.returns.dtype), batch)
    return best / best.sum(-1, keepdim=True).clamp(min=1)


@reads("labels")
def positive(batch: Batch) -> PerResponse:
    """1 on every response whose label is positive (Binary FeedMe)."""
    if batch.labels is None:
        raise MissingNeed("labels")
    return _only((batch.labels > 0).to(batch.labels.dtype), batch)


@reads("scores")
def above(batch: Batch, *, threshold: Number | None = None, quantile: OneShare = 0.75) -> PerResponse:
    """1 on every response whose score is at least the threshold: ReST's filter (arXiv:2308.08998, §3).

    By default the threshold is the given quantile of the collection's own scores, per run.
    """
    returns = batch.returns
    if threshold is None:
        flat = returns.masked_fill(~batch.present, math.nan).flatten(-2)
        least = torch.nanquantile(flat, quantile, dim=-1)
        least = least[..., None, None] if least.ndim else least
    else:
        least = per_run(threshold, returns)
    return _only((returns >= least).to(returns.dtype), batch)


@reads("scores", sized=True)
def exponential(
    batch: Batch,
    *,
    beta: Positive = 1.0,
    normalise: Literal["none", "prompt", "batch"] = "batch",
    baseline: Baseline = "none",
    cap: OnePositive = 20.0,
    state: State | None = None,
) -> PerResponse:
    """exp((r − b)/β): the weight of π* against π_ref (RWR, Peters & Schaal 2007; AWR, arXiv:1910.00177, eq. 5).

    The loss is −(1/N) Σ w log π over the N responses of a minibatch, so that the size of the weights counts.

    normalise: "none" leaves the raw weight, at most `cap`; "prompt" and "batch" make the mean weight 1 within the
    group or the collection, which also cancels any baseline that is constant there.

    Raises:
        UserError: normalise="prompt" with one response per prompt, where every weight would be 1.
    """
    x = batch.returns - _baseline(batch, baseline, state)
    x = (x / per_run(beta, x)).masked_fill(~batch.present, -math.inf)
    if normalise == "none":
        return _only(x.clamp(max=math.log(cap)).exp(), batch)
    over = {"prompt": (-1,), "batch": (-2, -1)}.get(normalise)
    if over is None:
        raise UserError(f"unknown normalise {normalise!r}", fix=nearest(normalise, ("none", "prompt", "batch")))
    if normalise == "prompt":
        _groups(batch, "normalise='prompt'")
    return _only((x - x.logsumexp(over, keepdim=True)).exp() * batch.present.sum(over, keepdim=True), batch)


# -------------------------------------------------------------------------------------------------- policy gradient


def _baseline(batch: Batch, name: str, state: State | None) -> Tensor:
    r, present = batch.returns, batch.present
    if name == "none":
        return torch.zeros_like(r)
    if name == "running" and state is not None:  # earlier collections, so that it does not depend on these responses
        count, mean = (state[k][..., None, None].to(r) for k in ("count", "mean"))
        return torch.where(count > 0, mean, _mean(r, present, 2))
    if name in ("batch", "running"):
        return _mean(r, present, 2)
    if name == "prompt":
        _groups(batch, "baseline='prompt'")
        return _mean(r, present, 1)
    if name == "leave_one_out":
        _groups(batch, "baseline='leave_one_out'")
        n = present.sum(-1, keepdim=True)
        return (_only(r, batch).sum(-1, keepdim=True) - r) / (n - 1).clamp(min=1)
    if name == "values":
        if batch.values is None:
            raise MissingNeed("values")
        return batch.values[..., 0]
    raise UserError(f"unknown baseline {name!r}", fix=nearest(name, get_args(Baseline)))


@reads("scores")
def advantage(
    batch: Batch,
    *,
    baseline: Baseline = "batch",
    scale: Literal["none", "batch", "prompt"] = "none",
    eps: OnePositive = 1e-4,
    state: State | None = None,
) -> PerResponse:
    """(r − b)/scale: baseline none, batch, running, prompt, leave_one_out or values; scale none, batch or prompt.

    "running" is the mean over all earlier collections (over this one for the first collection).
    """
    a = batch.returns - _baseline(batch, baseline, state)
    if scale != "none":
        dims = {"prompt": 1, "batch": 2}.get(scale)
        if dims is None:
            raise UserError(f"unknown scale {scale!r}", fix=nearest(scale, ("none", "batch", "prompt")))
        a = a / (_std(batch.returns, batch.present, dims) + eps)
    single = (batch.present.sum(-1, keepdim=True) < 2) & (baseline in ("prompt", "leave_one_out"))
    return _only(torch.where(single, 0.0, a), batch)


@reads("scores", groups=True)
def leave_one_out(batch: Batch) -> PerResponse:
    """r_i minus the mean of the other responses to the same prompt: RLOO (arXiv:2402.14740, eq. 8)."""
    return advantage(batch, baseline="leave_one_out")


@reads("scores", groups=True)
def group_zscore(batch: Batch, *, eps: OnePositive = 1e-4) -> PerResponse:
    """(r_i − group mean)/(group standard deviation + eps): GRPO (arXiv:2402.03300, §4.1.2)."""
    return advantage(batch, baseline="prompt", scale="prompt", eps=eps)


@reads("scores", "values")
def gae(batch: Batch, *, discount: Share = 1.0, lam: Share = 0.95, whiten: bool = True) -> Float[Tensor, "*S P G T"]:
    """Generalised advantage estimation per token, score on the last token (arXiv:1506.02438, eq. 16).

    `whiten` standardises to mean 0 and variance 1 over the run's tokens.
    """
    if batch.values is None or batch.scores is None:
        raise MissingNeed("values" if batch.values is None else "scores")
    mask, last = batch.mask & batch.present[..., None], (batch.lengths - 1).clamp(min=0)[..., None]
    values = torch.where(mask, batch.values, 0.0)
    reward = torch.zeros_like(values).scatter(-1, last, batch.scores[..., None].to(values))
    if batch.penalty is not None:
        reward = reward + batch.penalty
    g = per_run(discount, batch.scores)
    decay = g * per_run(lam, batch.scores)
    following, carried, out = torch.zeros_like(batch.scores), torch.zeros_like(batch.scores), []
    for t in reversed(range(mask.shape[-1])):
        carried = reward[..., t] + g * following - values[..., t] + decay * carried
        carried = torch.where(mask[..., t], carried, 0.0)
        following = values[..., t]
        out.append(carried)
    a = torch.stack(out[::-1], -1)
    if whiten:
        a = (a - _mean(a, mask, 3)) / (_std(a, mask, 3) + 1e-8)
    return torch.where(mask, a, 0.0)
