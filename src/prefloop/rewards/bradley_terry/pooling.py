"""From hidden states to what the head of a reward model reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.rewards.bradley_terry.encoding import Row, last_place
from prefloop.rewards.bradley_terry.options import Pooling

WIDTH = {"last": 1, "mean": 1, "both": 2, "cls": 1}  # inputs of the head, in hidden sizes


def pooled(
    hidden: Float[Tensor, "n L D"], rows: Sequence[Row], pooling: Pooling, padding: int | None = None
) -> Float[Tensor, "n W"]:
    """What the head reads of each row, W = WIDTH · D; differentiable.

    Args:
        hidden: states of the rows, padded on the right.
        pooling: the state of the last token, of the first one (cls), or the mean over the answer's tokens; or the first
            and the third, side by side.
        padding: the last token is the last one that is not this one.
    """
    device = hidden.device
    end = torch.tensor([len(row.ids) for row in rows], device=device)[:, None]
    start = end - torch.tensor([row.response for row in rows], device=device)[:, None]
    place = torch.arange(hidden.shape[1], device=device)
    inside = ((place >= start) & (place < end))[..., None]
    final = torch.tensor([last_place(row.ids, padding) for row in rows], device=device)
    last = hidden[torch.arange(len(rows), device=device), final]
    mean = torch.where(inside, hidden, 0.0).sum(1) / inside.sum(1).clamp(min=1)
    states = {"last": (last,), "mean": (mean,), "both": (last, mean), "cls": (hidden[:, 0],)}
    return torch.cat(states[pooling], -1)
