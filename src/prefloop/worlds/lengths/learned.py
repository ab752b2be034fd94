"""Bradley-Terry reward models for stacked runs: a stacked GPT with a scalar head on the state of the last token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.fit import falling, minimise
from prefloop.core.streams import Stream
from prefloop.policies.gpt import GPT
from prefloop.rewards.bradley_terry.loss import pair_loss

GROUPS = 16  # groups of the data per step


@dataclass(frozen=True)
class StackedReward:
    """One reward model per run; its scores have mean 0 and variance 1 on its training data.

    Args:
        weights: those of the backbone and `score.weight` [S, D, 1], `score.mean` and `score.scale` [S].
    """

    backbone: GPT
    weight: Float[Tensor, "S D 1"]
    mean: Float[Tensor, " S"]
    scale: Float[Tensor, " S"]

    def __call__(self, batch: Batch) -> Float[Tensor, "S P G"]:
        """One score per response, 0 on the empty slots of ragged groups; no gradient."""
        with torch.no_grad():
            raw = scores(self.backbone, self.weight, batch)
        each = [x[:, None, None] for x in (self.mean, self.scale)]
        return torch.where(batch.present, (raw - each[0]) / each[1], 0.0)

    def state(self) -> dict[str, Tensor]:
        """All tensors by name."""
        head = {"score.weight": self.weight, "score.mean": self.mean, "score.scale": self.scale}
        return {**self.backbone.state(), **head}


def restored(like: GPT, state: Mapping[str, Tensor]) -> StackedReward:
    """The reward model of a `state`, whose backbone has the shape of `like`."""
    head = {k: state[f"score.{k}"] for k in ("weight", "mean", "scale")}
    backbone = GPT({k: x for k, x in state.items() if not k.startswith("score.")}, like.heads, like.end)
    return StackedReward(backbone.frozen(), **head)


def scores(backbone: GPT, weight: Float[Tensor, "S D 1"], batch: Batch) -> Float[Tensor, "S P G"]:
    """Output of the head on the state of each response's last token, differentiable."""
    length = max(1, int(batch.lengths.max()))
    first = batch.prompts[..., None, None].expand(*batch.responses.shape[:-1], 1)
    hidden = backbone.hidden(torch.cat([first, batch.responses[..., :length]], -1).flatten(1, 2))
    last = batch.lengths.flatten(1)[..., None, None].expand(-1, -1, 1, hidden.shape[-1])
    return torch.bmm(hidden.gather(2, last).squeeze(2), weight).view(batch.present.shape)


def fit(reference: GPT, data: Batch, seeds: Sequence[int], *, steps: int = 150, lr: float = 1e-3) -> StackedReward:
    """Fit all runs at once to all strict preferences within groups of the data, starting from the reference's weights.

    Adam on backbone and head together, with the learning rate falling linearly to 0; the head starts at 0.

    Args:
        data: [S, N, C, T] with scores, of which only the order matters.
        seeds: seeds of the order of groups, one per run.
        steps: number of steps, of at most 16 groups each.
    """
    assert data.scores is not None
    backbone = reference.take(torch.arange(reference.runs))
    weight = torch.zeros_like(backbone.weights["place"][:, 0, :, None]).requires_grad_()
    parameters = [x for k, x in backbone.weights.items() if k.split(".")[0] not in ("head", "value")] + [weight]
    rng, n = Stream("reward model", seeds, stacked=True), data.mask.shape[1]
    size = min(GROUPS, n)

    def losses(step: int) -> list[Tensor]:
        epoch, part = divmod(step, n // size)
        batch = data[rng.epoch(n, epoch)[:, part * size : (part + 1) * size]]
        assert batch.scores is not None
        own = scores(backbone, weight, batch)
        margin, better = (x[..., :, None] - x[..., None, :] for x in (own, batch.scores))
        strict = better > 0
        nll = pair_loss(margin.flatten()).view_as(margin)
        loss = torch.where(strict, nll, 0.0).sum((1, 2, 3)) / strict.sum((1, 2, 3)).clamp(min=1)
        return [loss.sum()]

    minimise(parameters, losses, steps, lr=falling(lr, steps), limit=1.0, stacked=True)
    fitted = StackedReward(backbone.frozen(), weight.detach(), torch.zeros(len(seeds)), torch.ones(len(seeds)))
    raw = torch.cat([fitted(part) for part in portions(data)], 1).flatten(1)
    return StackedReward(fitted.backbone, fitted.weight, raw.mean(1), raw.std(1).clamp(min=1e-6))


def accuracy(model: StackedReward, data: Batch) -> Float[Tensor, " S"]:
    """Share of strict preferences within groups that the scores order correctly; ties count half."""
    assert data.scores is not None
    own = torch.cat([model(part) for part in portions(data)], 1)
    margin, better = (x[..., :, None] - x[..., None, :] for x in (own, data.scores))
    strict = better > 0
    right = (margin > 0).double() + 0.5 * (margin == 0)
    return torch.where(strict, right, 0.0).sum((1, 2, 3)) / strict.sum((1, 2, 3)).clamp(min=1)


def portions(data: Batch, groups: int = 128) -> list[Batch]:
    """The groups in chunks that fit into memory."""
    rows = torch.arange(data.mask.shape[1]).expand(data.mask.shape[0], -1)
    return [data[part] for part in rows.split(groups, dim=1)]
