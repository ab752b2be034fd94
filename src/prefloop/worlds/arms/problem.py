"""The paper's didactic problems: arms under a context, or sequences of arms; rewards, reference, offline data.

Tajwar et al. 2024 (arXiv:2404.14367), §4.1. A response's gold reward is the mean of its tokens' rewards; the prompt is
neither rewarded nor scored, so the ceiling is 1 if the peak lies on an arm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.fit import constant, minimise
from prefloop.core.kl import exact
from prefloop.core.ranges import Number
from prefloop.core.streams import Stream
from prefloop.policies.categorical import Categorical
from prefloop.policies.stacked import Stacked, inverse_cdf
from prefloop.rewards.bradley_terry.logistic import fit_linear
from prefloop.worlds.rewarded import Draw, Typical

ARMS = 100
CONTEXT = 100  # dimensions
HUMP = (15, 26)  # arms around the reference's mode at 20; its two other modes are the edges
LOCATION, SCALE = -0.7, 0.4  # of the Cauchy variable whose tanh is binned into arms
PENALTIES = (1.0, 0.1, 0.01)  # candidates for the learned reward


# ---------------------------------------------------------------------------------------------------------- rewards


def bump(centre: Number, width: Number, arms: int = ARMS) -> Float[Tensor, "*S V"]:
    """exp(−((a − centre)/width)²) of each arm a: R1 has its centre at 70, R2 at 20, both of width 10."""
    a = torch.arange(arms, dtype=torch.float64)
    c, w = (torch.as_tensor(x, dtype=torch.float64)[..., None] for x in (centre, width))
    return (-(((a - c) / w) ** 2)).exp()


@dataclass(frozen=True)
class ArmReward:
    """Scores a response by the mean of its tokens' rewards."""

    table: Float[Tensor, "S V"]

    def __call__(self, batch: Batch) -> Float[Tensor, "S P G"]:
        return mean_reward(self.table, batch.responses)


def mean_reward(table: Float[Tensor, "S V"], responses: Int[Tensor, "S P G T"]) -> Float[Tensor, "S P G"]:
    """Mean of the tokens' rewards."""
    return table.gather(-1, responses.flatten(1)).view(responses.shape).mean(-1)


def under(law: Float[Tensor, " V"]) -> Typical:
    """The exact mean of an ArmReward over responses whose tokens follow the law."""

    def typical(scorer: ArmReward) -> Float[Tensor, " S"]:
        return (law.to(scorer.table) * scorer.table).sum(-1)

    return typical


def reference_law(arms: int = ARMS) -> Float[Tensor, " V"]:
    """Probability of each of `arms` equal bins of [−1, 1] under tanh(Cauchy(−0.7, 0.4)), in closed form."""
    edges = torch.linspace(-1, 1, arms + 1, dtype=torch.float64).atanh()
    cdf = 0.5 + ((edges - LOCATION) / SCALE).atan() / math.pi
    return cdf.diff()


# ---------------------------------------------------------------------------------------------------------- prompts


def fresh(dtype: torch.dtype) -> Draw:
    """Uniform on [0, 1]^100, new each time."""

    def draw(start: int, count: int, rng: Stream) -> Tensor:
        return rng.rand(count, CONTEXT).to(dtype)

    return draw


def listed(contexts: Float[Tensor, "S n D"]) -> Draw:
    """Cycle through a fixed list, as the published code does."""

    def draw(start: int, count: int, rng: Stream) -> Tensor:
        return contexts[:, (start + torch.arange(count)) % contexts.shape[1]]

    return draw


def indexed(runs: int, contexts: int) -> Draw:
    """Indices into a fixed list, for a tabular policy."""

    def draw(start: int, count: int, rng: Stream) -> Tensor:
        return ((start + torch.arange(count)) % contexts).expand(runs, count)

    return draw


def prompt_tokens(start: int, count: int, rng: Stream) -> Int[Tensor, "S P"]:
    """One uniform token per prompt."""
    return (rng.rand(count) * ARMS).long()


# -------------------------------------------------------------------------------------------------------- reference


def fit(
    policy: Stacked,
    draw: Draw,
    tokens: int,
    objective: str,
    seeds: Sequence[int],
    *,
    steps: int = 100,
    lr: float = 0.01,
) -> None:
    """Fit every next-token distribution of the policy to the reference law, in place, as the published `run_sft` does.

    Args:
        objective: "likelihood" minimises KL(law‖π) (the default), "reverse" KL(π‖law) as published.
    """
    law = reference_law().log().to(policy.parameters()[0].dtype)
    rng = Stream("fit", seeds, stacked=True)

    def losses(step: int) -> list[Tensor]:
        prompts = draw(16 * step, 16, rng)
        responses = inverse_cdf(law.expand(len(seeds), -1), rng.rand(16 * tokens, dtype=law.dtype))
        own = policy.next_logp(prompts, responses.view(-1, 16, 1, tokens))  # type: ignore[attr-defined]
        target = law.expand_as(own)
        distance = exact(target, own) if objective == "likelihood" else exact(own, target)
        return [distance.mean((1, 2, 3)).sum()]

    minimise(policy.parameters(), losses, steps, lr=constant(lr), stacked=True)


def tabular_reference(runs: int, contexts: int, dtype: torch.dtype) -> Categorical:
    """The reference law itself in every context."""
    return Categorical(reference_law().log().to(dtype).expand(runs, contexts, 1, ARMS))


# ----------------------------------------------------------------------------------------------------- offline data


@dataclass(frozen=True)
class Law:
    """Distribution of the offline data: with probability `coverage` the reference, otherwise a bump."""

    coverage: Float[Tensor, " S"]
    centre: Float[Tensor, " S"]
    width: Float[Tensor, " S"]


def skewed(batch: Batch, law: Law, rng: Stream) -> Batch:
    """Responses of the reference [S, N, C, T], a share of which is replaced according to the law, independently."""
    return replaced(batch, law.coverage, bump(law.centre, law.width), rng)


def replaced(batch: Batch, coverage: Float[Tensor, " S"], weight: Float[Tensor, "S V"], rng: Stream) -> Batch:
    """Keep a share `coverage` of the responses, at random; the others draw each token in proportion to its weight."""
    _, n, group, tokens = batch.responses.shape
    u, chosen = rng.rand(n * group * tokens, dtype=torch.float64), rng.rand(n, group, dtype=torch.float64)
    other = inverse_cdf(weight.log(), u).view(batch.responses.shape)
    own = chosen < coverage.double()[:, None, None]
    return replace(batch, responses=torch.where(own[..., None], batch.responses, other))


def sharing(batch: Batch, tokens: int, rng: Stream) -> Batch:
    """Groups whose responses share `tokens` positions, chosen at random per group: similar pairs."""
    _, n, _, length = batch.responses.shape
    rank = rng.rand(n, length).argsort(-1)
    common = (rank < tokens)[:, :, None]
    return replace(batch, responses=torch.where(common, batch.responses[:, :, :1], batch.responses))


def learned_reward(data: Batch, seeds: Sequence[int], arms: int = ARMS) -> Float[Tensor, "S V"]:
    """A Bradley-Terry reward per arm, fitted per run to pairs of adjacent responses in each group of the data.

    A response's score is the mean over its tokens, so its features are the shares of the arms in it. In groups of odd
    size the last response is not used.
    """
    assert data.scores is not None
    pairs = data.mask.shape[2] // 2
    share = torch.nn.functional.one_hot(data.responses, arms).double().mean(-2)
    out = []
    for run, seed in enumerate(seeds):
        gap = (share[run, :, 0 : 2 * pairs : 2] - share[run, :, 1::2]).flatten(0, 1)
        sign = torch.sign(data.scores[run, :, 0 : 2 * pairs : 2] - data.scores[run, :, 1::2]).flatten()
        strict = (sign != 0) & (gap != 0).any(-1)
        keys = torch.arange(data.mask.shape[1]).repeat_interleave(pairs)[strict]
        fitted = fit_linear(gap[strict] * sign[strict, None], keys.cpu().tolist(), seed=seed, penalties=PENALTIES)
        out.append(fitted.weight)
    return torch.stack(out).to(data.scores)
