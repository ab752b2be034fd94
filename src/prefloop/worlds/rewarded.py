"""The problem of every world with a known gold reward: prompts, offline data, scores and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
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
        draw: draws prompts.
        gold: the gold reward.
        proxy: a learned reward that, if given, scores responses instead.
        data: offline groups [S, N, C, T] with scores, and labels if the method reads them.
        typical: computes the mean score of the reference, above which labels are positive; None: no labels.
        ordinal: gold shows only the order of the responses to a prompt, see `ranked`; also in the data.
    """

    draw: Draw
    gold: Score
    proxy: Score | None = None
    data: Batch | None = None
    typical: Typical | None = None
    ordinal: bool = False

    def prompts(self, start: int, count: int, rng: Stream) -> Tensor:
        """Prompts from number `start` on."""
        return self.draw(start, count, rng)

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        """Groups from number `start` on, in endless epochs over the data, each in its own order.

        Raises:
            ValueError: no data, or groups of a different size.
        """
        if self.data is None or self.data.mask.shape[2] != responses:
            raise ValueError(f"this problem has no offline groups of {responses} responses")
        n = self.data.mask.shape[1]
        epochs = range(start // n, (start + count - 1) // n + 1)
        order = torch.cat([rng.epoch(n, e) for e in epochs], -1)
        first = start - epochs[0] * n
        return self.data[order[:, first : first + count]]

    def score(self, batch: Batch) -> Batch:
        """Add scores and labels by the proxy if given, otherwise by gold; existing scores are kept."""
        if batch.scores is not None:
            return batch
        done = above(replace(batch, scores=self._scorer(batch)), self._least)
        return ranked(done) if self.ordinal and self.proxy is None else done

    @property
    def _scorer(self) -> Score:
        return self.proxy or self.gold

    @cached_property
    def _least(self) -> Float[Tensor, " S"] | None:
        return None if self.typical is None else self.typical(self._scorer)


def labelled(batch: Batch, scorer: Score, typical: Typical | None) -> Batch:
    """A scored batch with labels: positive above the scorer's mean over responses of the reference."""
    return above(batch, None if typical is None else typical(scorer))


def above(batch: Batch, least: Float[Tensor, " S"] | None) -> Batch:
    """A scored batch with labels, positive above each run's number; none without."""
    if least is None or batch.scores is None:
        return batch
    return replace(batch, labels=label(batch.scores, least[:, None, None]))


def ranked(batch: Batch) -> Batch:
    """A scored batch in which only the order of the responses to a prompt is left: nothing across prompts, no sizes.

    The k-th lowest of n scores becomes (k − ½)/n; ties share their mean, so that the mean of every group is ½. Labels,
    if there are any, become positive above ½.
    """
    assert batch.scores is not None
    gap, there = batch.scores[..., :, None] - batch.scores[..., None, :], batch.present[..., None, :]
    below = ((gap.sign() + 1) / 2 * there).sum(-1)  # a tie, as with itself, counts half
    ranks = below / batch.present.sum(-1, keepdim=True).clamp(min=1)
    return replace(batch, scores=ranks, labels=None if batch.labels is None else label(ranks, 0.5))


def noisy(scores: Float[Tensor, "S N C"], temperature: Float[Tensor, " S"], rng: Stream) -> Float[Tensor, "S N C"]:
    """Scores plus Gumbel noise, so that comparisons follow Bradley-Terry with scores/temperature."""
    u = rng.rand(*scores.shape[1:], dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return scores - temperature[:, None, None].to(scores) * torch.log(-torch.log(u)).to(scores)
