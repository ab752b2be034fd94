"""The problem of every world whose true reward is known: prompts, offline data, scores and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch, label
from prefloop.core.streams import Stream

Draw = Callable[[int, int, Stream], Tensor]  # start, count, rng -> prompts [S, count, …]
Score = Callable[[Batch], Float[Tensor, "S P G"]]
Typical = Callable[[Any], Float[Tensor, " S"]]  # a Score -> its mean over responses of the reference


@dataclass(frozen=True)
class Rewarded:
    """Prompts, offline data and rewards of S stacked runs.

    Args:
        draw: prompts.
        gold: the true reward.
        proxy: a learned one, which scores in its place where it is given.
        data: offline groups [S, N, C, T] with their scores, and labels where the method reads them.
        typical: mean score of the reference; labels are positive above it. None: no labels.
    """

    draw: Draw
    gold: Score
    proxy: Score | None = None
    data: Batch | None = None
    typical: Typical | None = None

    def prompts(self, start: int, count: int, rng: Stream) -> Tensor:
        """Prompts number `start` on."""
        return self.draw(start, count, rng)

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        """Groups number `start` on, every epoch over the data in an order of its own.

        Raises:
            ValueError: no data, or groups of another size.
        """
        if self.data is None or self.data.mask.shape[2] != responses:
            raise ValueError(f"this problem has no offline groups of {responses}")
        n = self.data.mask.shape[1]
        epochs = range(start // n, (start + count - 1) // n + 1)
        order = torch.cat([rng.epoch(n, e) for e in epochs], -1)
        first = start - epochs[0] * n
        return self.data[order[:, first : first + count]]

    def score(self, batch: Batch) -> Batch:
        """Scores and labels by the proxy, or else by gold; a batch that has scores keeps them."""
        return batch if batch.scores is not None else scored(batch, self.proxy or self.gold, self.typical)


def scored(batch: Batch, scorer: Score, typical: Typical | None) -> Batch:
    """The batch with the scorer's scores, and labels where `typical` is given."""
    return labelled(replace(batch, scores=scorer(batch)), scorer, typical)


def labelled(batch: Batch, scorer: Score, typical: Typical | None) -> Batch:
    """A scored batch with labels: positive above the scorer's mean over responses of the reference."""
    if typical is None or batch.scores is None:
        return batch
    return replace(batch, labels=label(batch.scores, typical(scorer)[:, None, None]))


def noisy(scores: Float[Tensor, "S N C"], temperature: Float[Tensor, " S"], rng: Stream) -> Float[Tensor, "S N C"]:
    """Scores plus Gumbel noise: any two of them then compare as Bradley-Terry of scores/temperature has it."""
    u = rng.rand(*scores.shape[1:], dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return scores - temperature[:, None, None].to(scores) * torch.log(-torch.log(u)).to(scores)
