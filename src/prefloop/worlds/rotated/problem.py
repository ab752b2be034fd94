"""A bandit on a circle whose reward and reference are turned by the context's cluster: laws, rewards, contexts, fits.

A relative arm is counted from the reference's mode. In cluster k, relative arm u is arm (u + ⌊kV/K⌋) mod V, so that
over all contexts every arm is about equally good and equally likely: an output bias gains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.fit import falling, minimise
from prefloop.core.ranges import Number
from prefloop.core.streams import Stream
from prefloop.policies.mlp import MLP
from prefloop.rewards.bradley_terry.loss import pair_loss
from prefloop.worlds.rewarded import Draw, Typical

CONTEXT = 32  # dimensions
FIRST = 50  # width of a network's first hidden layer
CONCENTRATION = 5.0  # of the reference's law
LOWER = 0.8  # height of the reward's other peaks
HARMONICS = 16  # of the learned reward, as a function of the arm

PerContext = Callable[[Float[Tensor, "S P D"]], Tensor]  # a number for each arm, given the context


# ------------------------------------------------------------------------------------------------- on relative arms


def reference_law(arms: int) -> Float[Tensor, " V"]:
    """A bell on the circle, exp(κ cos(2πu/V)) (von Mises) with κ = 5: the arm opposite to the mode has e^−10 of it."""
    u = torch.arange(arms, dtype=torch.float64)
    return (CONCENTRATION * (2 * math.pi * u / arms).cos()).softmax(0)


def away(centre: Number, arms: int) -> Float[Tensor, "*S V"]:
    """The distance of each arm from the centre, around the circle."""
    c = torch.as_tensor(centre, dtype=torch.float64)[..., None]
    return ((torch.arange(arms, dtype=torch.float64) - c + arms / 2) % arms - arms / 2).abs()


def bump(centre: Number, width: Number, arms: int) -> Float[Tensor, "*S V"]:
    """exp(−(d/width)²), d the distance from the centre around the circle."""
    w = torch.as_tensor(width, dtype=torch.float64)[..., None]
    return (-((away(centre, arms) / w) ** 2)).exp()


def reward_table(distance: Number, width: Number, modes: int | Tensor, arms: int) -> Float[Tensor, "*S V"]:
    """The highest of `modes` bumps, evenly spaced from the one at `distance`, the others LOWER; the best arm has 1."""
    m = torch.as_tensor(modes, dtype=torch.float64)
    peaks = [bump(distance, width, arms)]
    for k in (1, 2):
        other = LOWER * bump(distance + k * arms / m, width, arms)
        peaks.append(torch.where((k < m)[..., None], other, 0.0))
    table = torch.stack(peaks).amax(0)
    return table / table.amax(-1, keepdim=True)


def distance(mass: float, width: float, arms: int) -> float:
    """Where the reference has that probability within one width: relative arm from 0 (the mode) to V/2 (opposite).

    An arm counts as the interval from a − ½ to a + ½.

    Raises:
        UserError: no place has that probability.
    """
    law = reference_law(arms).numpy()
    edges, below = np.arange(3 * arms + 1) - arms - 0.5, np.concatenate([[0.0], np.tile(law, 3).cumsum()])

    def within(centre: float) -> float:
        low, high = np.interp([centre - width, centre + width], edges, below)
        return float(high - low)

    near, far = 0.0, arms / 2
    if not (width < arms / 4 and within(far) <= mass <= within(near)):
        what = f"no peak of width {width:g} on {arms} arms has mass {mass:g}"
        bounds = f"mass from {within(far):.2g} to {within(near):.2g}"
        raise UserError(what, fix=f"{bounds}, or another width" if width < arms / 4 else f"width below {arms / 4:g}")
    for _ in range(60):
        middle = (near + far) / 2
        near, far = (middle, far) if within(middle) > mass else (near, middle)
    return near


# ---------------------------------------------------------------------------------------------------------- contexts


@dataclass(frozen=True)
class Clusters:
    """Contexts around the centre of a random cluster; a context belongs to the nearest centre."""

    centres: Float[Tensor, "S K D"]
    noise: float
    arms: int

    def draw(self, start: int, count: int, rng: Stream) -> Float[Tensor, "S P D"]:
        """New contexts, all clusters being equally likely."""
        cluster = (rng.rand(count) * self.centres.shape[1]).long()
        return self.around(cluster, rng)

    def around(self, cluster: Int[Tensor, "S P"], rng: Stream) -> Float[Tensor, "S P D"]:
        """A context of each of these clusters."""
        own = self.centres.gather(1, cluster[..., None].expand(-1, -1, CONTEXT))
        return own + self.noise * rng.randn(cluster.shape[1], CONTEXT).to(own)

    def each(self, count: int, rng: Stream) -> Float[Tensor, "S P D"]:
        """About `count` contexts, the same number of every cluster."""
        runs, clusters, _ = self.centres.shape
        every = torch.arange(clusters).repeat_interleave(max(1, count // clusters))
        return self.around(every.expand(runs, -1), rng)

    def shift(self, contexts: Float[Tensor, "S P D"]) -> Int[Tensor, "S P"]:
        """By how many arms each context's cluster is rotated."""
        score = contexts @ self.centres.mT - self.centres.square().sum(-1)[:, None] / 2
        return score.argmax(-1) * self.arms // self.centres.shape[1]

    def turned(self, relative: Shaped[Tensor, "S V"]) -> PerContext:
        """A number for each relative arm, as a function of the context."""

        def of(contexts: Float[Tensor, "S P D"]) -> Shaped[Tensor, "S P V"]:
            places = (torch.arange(self.arms) - self.shift(contexts)[..., None]) % self.arms
            return relative[:, None].expand(places.shape).gather(-1, places)

        return of

    def relative(self, batch: Batch, sign: int = -1) -> Batch:
        """The batch with relative arms; with sign 1, the inverse."""
        shift = sign * self.shift(batch.prompts)[..., None, None]
        return replace(batch, responses=(batch.responses + shift) % self.arms)


def clusters(seeds: Sequence[int], number: int, noise: float, arms: int, dtype: torch.dtype) -> Clusters:
    """Clusters whose centres are standard normal, each run's own."""
    centres = Stream("clusters", seeds, stacked=True).randn(number, CONTEXT, dtype=torch.float64)
    return Clusters(centres.to(dtype), noise, arms)


@dataclass(frozen=True)
class ContextReward:
    """Scores an arm under its context."""

    of: PerContext

    def __call__(self, batch: Batch) -> Float[Tensor, "S P G"]:
        return self.of(batch.prompts).gather(-1, batch.responses[..., 0])


def under(law: PerContext, contexts: Float[Tensor, "S P D"]) -> Typical:
    """The mean of a ContextReward over arms of the law, averaged over these contexts."""

    def typical(scorer: ContextReward) -> Float[Tensor, " S"]:
        table = scorer.of(contexts)
        return (law(contexts).to(table) * table).sum(-1).mean(-1)

    return typical


# -------------------------------------------------------------------------------------------------------------- fits


def network(seeds: Sequence[int], outputs: int, hidden: int, dtype: torch.dtype) -> MLP:
    """A new network on contexts; linear without hidden units."""
    widths = (FIRST, hidden, hidden) if hidden else ()
    return MLP.create(seeds, context=CONTEXT, arms=outputs, hidden=widths, dtype=dtype)


def fit(
    policy: MLP,
    draw: Draw,
    law: PerContext,
    seeds: Sequence[int],
    *,
    steps: int = 200,
    prompts: int = 64,
    lr: float = 2e-2,
) -> None:
    """Fit the policy to the law in place: squared log-ratio of every arm, half weighted by the law, half evenly.

    Likelihood alone would leave the arms that the reference rarely draws, where a far peak lies, at random values.
    """
    rng = Stream("fit", seeds, stacked=True)

    def losses(step: int) -> list[Tensor]:
        contexts = draw(0, prompts, rng)
        target, own = law(contexts).to(contexts), policy.distribution(contexts)
        weight = target + 1 / target.shape[-1]
        return [(weight * (own - target.log()).square()).sum(-1).mean(-1).sum()]

    minimise(policy.parameters(), losses, steps, lr=falling(lr, steps), limit=1.0, stacked=True)


def learned_reward(
    data: Batch, seeds: Sequence[int], arms: int, *, hidden: int, steps: int = 300, lr: float = 1e-2
) -> dict[str, Tensor]:
    """A Bradley-Terry reward per run, fitted to all strict preferences within the groups of the data: its parameters.

    A network gives the coefficients of the first harmonics of the arm from the context: nearby arms score alike, as
    similar texts do, but which contexts belong together and how they are rotated is learned. Scores have mean 0 and
    standard deviation 1 over the data. `scorer` makes a reward of the parameters.
    """
    assert data.scores is not None
    model = network(seeds, 2 * HARMONICS, hidden, data.scores.dtype)
    strict = data.scores[..., :, None] > data.scores[..., None, :]
    parameters = [x for name, x in model.weights.items() if not name.startswith("value")]
    raw = ContextReward(_scores(model, arms))

    def losses(step: int) -> list[Tensor]:
        own = raw(data)
        nll = pair_loss((own[..., :, None] - own[..., None, :])[strict])
        each = torch.zeros_like(strict, dtype=own.dtype).masked_scatter(strict, nll)
        return [(each.sum((1, 2, 3)) / strict.sum((1, 2, 3)).clamp(min=1)).sum()]

    minimise(parameters, losses, steps, lr=falling(lr, steps), limit=1.0, stacked=True)
    with torch.no_grad():
        own = raw(data).flatten(1)
    return {**model.state(), "mean": own.mean(1), "scale": own.std(1).clamp(min=1e-6)}


def scorer(state: Mapping[str, Tensor], arms: int) -> ContextReward:
    """The reward with these parameters."""
    scores = _scores(MLP({k: x for k, x in state.items() if k not in ("mean", "scale")}).frozen(), arms)
    mean, scale = state["mean"][:, None, None], state["scale"][:, None, None]
    return ContextReward(lambda contexts: (scores(contexts) - mean) / scale)


def _scores(model: MLP, arms: int) -> PerContext:
    return lambda contexts: model.logits(contexts) @ harmonics(arms).to(contexts)


def harmonics(arms: int) -> Float[Tensor, "H V"]:
    """cos and sin of 2πju/V for j = 1 … HARMONICS."""
    angle = 2 * math.pi * torch.arange(1, HARMONICS + 1, dtype=torch.float64)[:, None] * torch.arange(arms) / arms
    return torch.cat([angle.cos(), angle.sin()])
