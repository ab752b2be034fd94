"""Which responses of a group are compared: index pairs (winner, loser) [*S, P, K, 2] and their weight [*S, P, K].

Weight 0 means that the pair is a tie or absent; its indices are then 0, which is always valid.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.batch import Batch, reads
from prefloop.core.errors import UserError
from prefloop.core.objectives import per_run
from prefloop.core.ranges import Number, Positive
from prefloop.core.streams import Stream

Pairs = tuple[Int[Tensor, "*S P K 2"], Float[Tensor, "*S P K"]]


def _pairs(batch: Batch, first: Tensor, second: Tensor, allowed: Tensor, threshold: Number) -> Pairs:
    """Order candidate pairs [*S, P, K] by score and drop those within the threshold."""
    r = batch.returns
    a, b = r.gather(-1, first), r.gather(-1, second)
    gap = (a - b).abs()
    keep = allowed & (gap > per_run(threshold, gap))
    index = torch.stack([torch.where(a >= b, first, second), torch.where(a >= b, second, first)], -1)
    return torch.where(keep[..., None], index, 0), keep.to(r.dtype)


def _group_size(batch: Batch) -> int:
    size = batch.mask.shape[-2]
    if size < 2:
        raise UserError("pairs need at least two responses per prompt, but there is only one", fix="responses >= 2")
    return size


@reads("scores")
def best_vs_worst(batch: Batch, *, threshold: Number = 0.0) -> Pairs:
    """One pair per prompt, K=1; prompts whose best and worst are within `threshold` give none."""
    _group_size(batch)
    r = batch.returns
    best = r.masked_fill(~batch.present, -math.inf).argmax(-1, keepdim=True)
    worst = r.masked_fill(~batch.present, math.inf).argmin(-1, keepdim=True)
    return _pairs(batch, best, worst, batch.present.sum(-1, keepdim=True) > 1, threshold)


@reads("scores")
def all_pairs(batch: Batch, *, threshold: Number = 0.0) -> Pairs:
    """Every pair of a group, K = G(G−1)/2, except those within `threshold`."""
    i, j = torch.triu_indices(_group_size(batch), _group_size(batch), offset=1, device=batch.mask.device)
    shape = (*batch.mask.shape[:-2], len(i))
    return _pairs(batch, i.expand(shape), j.expand(shape), batch.present[..., i] & batch.present[..., j], threshold)


@reads("scores")
def best_vs_rest(batch: Batch) -> Pairs:
    """The best against each of the others, K = G−1, with weights that sum to 1 per prompt."""
    size = _group_size(batch)
    order = batch.returns.masked_fill(~batch.present, -math.inf).argsort(dim=-1, descending=True, stable=True)
    index = torch.stack([order[..., :1].expand(*order.shape[:-1], size - 1), order[..., 1:]], -1)
    there = batch.present.gather(-1, order)[..., 1:]
    weight = there.to(batch.returns.dtype) / there.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(there[..., None], index, 0), weight


@reads("scores")
def rejection_pairs(batch: Batch, *, rng: Stream, beta: Positive = 0.5) -> Pairs:
    """Pairs of responses that statistical rejection sampling accepts: RSO (arXiv:2309.06657, algorithm 1).

    Passes over the shuffled candidates accept each with probability exp((r − r_max)/β), r_max the best score that is
    left at the start of the pass, until half of the group is accepted. A pass always accepts its best, so there are at
    most as many passes as responses to accept. Consecutive accepted ones form K = G//4 (at least one) pairs, labelled
    by score.
    """
    r, wanted = batch.returns, 2 * max(1, _group_size(batch) // 4)
    u = rng.rand(wanted + 1, *r.shape[-2:], dtype=r.dtype).to(r.device).unbind(-3)
    when, left = u[0], batch.present  # the pass that accepts a candidate, and its place within the pass
    for noise in u[1:]:
        best = r.masked_fill(~left, -math.inf).amax(-1, keepdim=True)
        left = left & (noise >= ((r - best) / per_run(beta, r)).exp())
        when = when + left
    order = when.masked_fill(~batch.present, math.inf).argsort(dim=-1)[..., :wanted]
    first, second = order[..., 0::2], order[..., 1::2]
    allowed = batch.present.gather(-1, first) & batch.present.gather(-1, second)
    return _pairs(batch, first, second, allowed, 0.0)
