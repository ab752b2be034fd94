"""How well a policy separates held-out responses that are labelled good from those that are not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Separation:
    """P(a good response has the higher value than one that is not), ties counting ½, and its standard error."""

    auc: float
    se: float

    def metrics(self, name: str) -> dict[str, float]:
        return {name: self.auc, f"{name}_se": self.se}


def separation(value: Float[Tensor, " N"] | Int[Tensor, " N"], good: Bool[Tensor, " N"]) -> Separation:
    """Area under the ROC curve with DeLong's standard error (DeLong et al. 1988).

    Args:
        value: one number per response, such as its implicit reward.
        good: whether it is labelled good; both kinds must occur.
    """
    above, below = value[good].double(), value[~good].double()
    sign = (torch.sign(above[:, None] - below[None]) + 1) / 2
    return Separation(float(sign.mean()), math.sqrt(_variance(sign.mean(1)) + _variance(sign.mean(0))))


def _variance(parts: Float[Tensor, " n"]) -> float:
    """Variance of the mean of one kind's placements; 0 for a single one."""
    return float(parts.var() / len(parts)) if len(parts) > 1 else 0.0


def label_metrics(
    reward: Float[Tensor, " N"], lengths: Int[Tensor, " N"], good: Bool[Tensor, " N"]
) -> dict[str, float]:
    """Metrics of held-out labels: separation by the implicit reward and by length; by label, the mean implicit reward
    and how often its sign is right.

    Args:
        reward: β(log π − log π_ref) of each response.
        lengths: its tokens.
    """
    return {
        **separation(reward, good).metrics("eval/labels/auc"),
        **separation(lengths, good).metrics("eval/labels/longer"),
        "eval/labels/good": float(reward[good].mean()),
        "eval/labels/bad": float(reward[~good].mean()),
        "eval/labels/accuracy/good": _share(reward[good] > 0, reward[good] == 0),
        "eval/labels/accuracy/bad": _share(reward[~good] < 0, reward[~good] == 0),
        "eval/labels/count": float(len(reward)),
    }


def _share(right: Bool[Tensor, " n"], tied: Bool[Tensor, " n"]) -> float:
    return float((right.double() + tied.double() / 2).mean())
