"""The loss of a preference pair: Bradley-Terry with smoothing, ties, rating margins and centring."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prefloop.rewards.bradley_terry.options import PairLoss


def judged(gap: Float[Tensor, " N"], loss: PairLoss) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """`flip` and `lead` of `pair_loss` for pairs whose winner is rated `gap` above the loser; 0 is a tie."""
    return torch.where(gap > 0, loss.label_smoothing, 0.5).to(gap), loss.rating_margin * gap


def pair_loss(
    margin: Float[Tensor, " N"],
    total: Float[Tensor, " N"] | float = 0.0,
    *,
    flip: Float[Tensor, " N"] | float = 0.0,
    lead: Float[Tensor, " N"] | float = 0.0,
    centring: float = 0.0,
) -> Float[Tensor, " N"]:
    """−(1−q) log σ(m − d) − q log σ(−m − d) + c t², per pair.

    Bradley & Terry 1952; q = ε: Mitchell 2023, q = ½ for a tie: half a preference each way; d: Touvron et al. 2023
    (Llama 2), eq. 2; c: Eisenstein et al. 2023 (arXiv:2312.09244), eq. 3.

    Args:
        margin: m = s_w − s_l.
        total: t = s_w + s_l.
        flip: q, the probability that the preference is flipped.
        lead: d, the margin by which the preferred score must lead.
        centring: c.
    """
    nll = (1 - flip) * F.softplus(lead - margin) + flip * F.softplus(lead + margin)
    return nll + centring * total**2 if centring else nll
