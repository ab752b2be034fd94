"""The loss of a preference pair: Bradley-Terry with smoothing, ties, rating margins and centring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from prefloop.core.errors import UserError

Ties = Literal["drop", "half"]


@dataclass(frozen=True)
class PairLoss:
    """Which loss a reward model is fitted by; the defaults are plain Bradley-Terry.

    Args:
        label_smoothing: ε, the share of preferences taken to be wrong, from 0 to below ½.
        rating_margin: m, score by which the winner must lead per unit of rating between the two, 0 or more.
        ties: `drop` leaves pairs of equal rating out, `half` counts each as half a preference either way.
        centring: coefficient of (s_w + s_l)², 0 or more; it draws scores to 0, so that those of several models compare.

    Raises:
        UserError: a value out of range.
    """

    label_smoothing: float = 0.0
    rating_margin: float = 0.0
    ties: Ties = "drop"
    centring: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.label_smoothing < 0.5, "label_smoothing", self.label_smoothing, "use 0 to below 0.5")
        _require(0 <= self.rating_margin < float("inf"), "rating_margin", self.rating_margin, "use 0 or more")
        _require(self.ties in ("drop", "half"), "ties", self.ties, "use drop or half")
        _require(0 <= self.centring < float("inf"), "centring", self.centring, "use 0 or more")

    def judged(self, gap: Float[Tensor, " N"]) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """`flip` and `lead` of `pair_loss` for pairs whose winner is rated `gap` above the loser; 0 is a tie."""
        return torch.where(gap > 0, self.label_smoothing, 0.5).to(gap), self.rating_margin * gap


def pair_loss(
    margin: Float[Tensor, " N"],
    total: Float[Tensor, " N"] | float = 0.0,
    *,
    flip: Float[Tensor, " N"] | float = 0.0,
    lead: Float[Tensor, " N"] | float = 0.0,
    centring: float = 0.0,
) -> Float[Tensor, " N"]:
    """−(1−q) log σ(m − d) − q log σ(−m − d) + c t², per pair.

    Bradley & Terry 1952; q = ε: Mitchell 2023, q = ½ of a tie: half a preference either way; d: Touvron et al. 2023
    (Llama 2), eq. 2; c: Eisenstein et al. 2023 (arXiv:2312.09244), eq. 3.

    Args:
        margin: m = s_w − s_l.
        total: t = s_w + s_l.
        flip: q, the probability that the preference is the other way round.
        lead: d, by which the preferred score must lead.
        centring: c.
    """
    nll = (1 - flip) * F.softplus(lead - margin) + flip * F.softplus(lead + margin)
    return nll + centring * total**2 if centring else nll


def _require(holds: bool, name: str, value: object, fix: str) -> None:
    if not holds:
        raise UserError(f"`{name}` cannot be {value!r}", where=f"loss of the reward model: {name}", fix=fix)
