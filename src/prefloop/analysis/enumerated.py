"""Exact geometry and coverage where all responses can be enumerated: X prompts, R responses to each.

Counterparts of `geometry` and `coverage`, and the published coverage coefficients. Prompts are equally likely unless
they have weights. A policy of `policies.Categorical` gives its log-probs by `distribution`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.analysis import theory
from prefloop.core.kl import exact

Table = Float[Tensor, "X R"]
PerPrompt = Float[Tensor, " X"]


def quantile(log_ref: Table, values: Table, level: float) -> float:
    """The smallest value v with P(value ≤ v) ≥ level, for a response of the reference to a random prompt."""
    law, order = (log_ref.exp() / len(log_ref)).flatten(), values.flatten().argsort()
    place = torch.searchsorted(law[order].cumsum(0), torch.tensor(level - 1e-12, dtype=law.dtype))
    return float(values.flatten()[order][place.clamp(max=len(order) - 1)])


def standardised(log_ref: Table, values: Table) -> Table:
    """(v − mean_x)/sd_x with the exact moments of each prompt."""
    p = log_ref.exp()
    mean = (p * values).sum(-1, keepdim=True)
    return (values - mean) / (p * (values - mean) ** 2).sum(-1, keepdim=True).sqrt()


def percentile(log_ref: Table, values: Table, of: Float[Tensor, " X"]) -> PerPrompt:
    """P(value < v) + ½ P(value = v) under the reference, for a number v of each prompt."""
    p, v = log_ref.exp(), of[:, None]
    return (p * ((values < v) + 0.5 * (values == v))).sum(-1)


def best_of(log_ref: Table, reward: Table, size: int) -> PerPrompt:
    """E[max of m rewards] = Σ_i r_(i) (F_i^m − F_(i−1)^m)."""
    value, order = reward.sort(-1)
    below = log_ref.exp().gather(-1, order).cumsum(-1) ** size
    return (value * below.diff(dim=-1, prepend=torch.zeros_like(below[:, :1]))).sum(-1)


def best_of_kl(log_ref: Table, reward: Table, size: int) -> PerPrompt:
    """KL(best-of-n‖π_ref) with ties broken at random: π_n(y) = π_ref(y) (F^n − F₋^n)/(F − F₋), F and F₋ the chance of
    at most and of less than y's reward."""
    p = log_ref.exp()
    upto = (p[:, None, :] * (reward[:, None, :] <= reward[:, :, None])).sum(-1)
    below = (p[:, None, :] * (reward[:, None, :] < reward[:, :, None])).sum(-1)
    ratio = (upto**size - below**size) / (upto - below)
    return (p * torch.special.xlogy(ratio, ratio)).sum(-1)


def reach(log_ref: Table, reward: Table, target: float, size: int) -> PerPrompt:
    """1 − (1 − P(r ≥ target))^m."""
    return 1 - (1 - (log_ref.exp() * (reward >= target)).sum(-1)) ** size


def tilt(log_ref: Table, reward: Table, beta: float) -> tuple[PerPrompt, PerPrompt, PerPrompt]:
    """log Z, KL(π*‖π_ref) and 1 + χ²(π*‖π_ref) of the optimum of J_β."""
    log_star, log_z = theory.optimum(log_ref, reward, beta)
    return log_z, exact(log_star, log_ref), concentrability(log_star, log_ref)


# ---- coverage coefficients ------------------------------------------------------------------------------------------


def concentrability(log_pi: Table, log_mu: Table) -> PerPrompt:
    """E_π[π/μ] = 1 + χ²(π‖μ), the coverage of one policy by data from μ."""
    return (2 * log_pi - log_mu).logsumexp(-1).exp()


def global_coverage(log_mu: Table) -> float:
    """max over all policies π and all x, y of π(y|x)/μ(y|x) = 1/min μ (Song et al. 2024, arXiv:2406.01462, global
    coverage, which offline contrastive methods need); infinite where data cannot contain a response."""
    return float((-log_mu).max().exp())


def local_coverage(log_ref: Table, log_mu: Table, radius: float, weights: Sequence[float] | None = None) -> float:
    """max_{x,y} π(y|x)/μ(y|x) over the policies with E_x KL(π‖π_ref) ≤ radius (Song et al. 2024: coverage within a KL
    ball, which online methods need; there μ is π_ref).

    Exact: the policy of the ball that gives y the most mass p scales all other responses alike and leaves other prompts
    as they are, so p solves p log(p/q) + (1 − p) log((1 − p)/(1 − q)) = radius/weight(x) with q = π_ref(y|x).

    Args:
        weights: probability of each prompt; equal by default.
    """
    share = torch.full((len(log_ref),), 1 / len(log_ref)) if weights is None else torch.tensor(weights)
    budget = (radius / share.to(log_ref))[:, None]
    q = log_ref.exp()
    low, high = q.clone(), torch.ones_like(q)
    for _ in range(80):
        middle = (low + high) / 2
        inside = _two(middle, q) <= budget
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    most = torch.where(-log_ref <= budget, torch.ones_like(q), low)
    ratio = torch.where(most > 0, most / log_mu.exp(), 0.0)
    return float(ratio[share > 0].max()) if radius < math.inf else global_coverage(log_mu[share > 0])


def _two(p: Tensor, q: Tensor) -> Tensor:
    """KL between two coins."""
    return torch.special.xlogy(p, p / q) + torch.special.xlogy(1 - p, (1 - p) / (1 - q))
