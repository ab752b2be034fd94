"""How long the reference's responses are, prompt by prompt: what a reward of the length can reach is known from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from prefloop.core.streams import Stream
from prefloop.policies.gpt import GPT

PARTS = 8  # independent parts of a sample, between which standard errors are measured
CHUNK = 64  # prompts at a time
Shares = Float[Tensor, "P T"]  # of lengths 1 … T, for each prompt


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Law:
    """p(length | prompt), estimated PARTS times independently.

    Args:
        parts: each is unbiased; the shares of a prompt add up to 1 on average.
    """

    parts: Float[Tensor, "K P T"]

    def estimate(self, of: Callable[[Shares], Tensor]) -> Estimate:
        """A function of the law and its standard error by the jackknife, which also removes the bias of order 1/K."""
        count, total = len(self.parts), self.parts.double().sum(0)
        whole = of(normalised(total))
        without = torch.stack([of(normalised(total - part)) for part in self.parts.double()])
        value = count * whole - (count - 1) * without.mean()
        return Estimate(float(value), float(((count - 1) * without.var(correction=0)).sqrt()))


def normalised(shares: Shares) -> Shares:
    """Shares that add up to 1 for each prompt."""
    return shares / shares.sum(-1, keepdim=True)


def mean(shares: Shares, reward: Float[Tensor, " T"]) -> Float[Tensor, ""]:
    """E[r(length)], all prompts being equally likely."""
    return (shares @ reward).mean()


def optimum(shares: Shares, reward: Float[Tensor, " T"], beta: float) -> Float[Tensor, ""]:
    """The highest E[r] − β KL(π‖π_ref) of any policy: the mean over prompts of β log E_ref[exp(r/β) | prompt]."""
    return (beta * torch.logsumexp(shares.log() + reward / beta, -1)).mean()


def sample(
    policy: GPT, prompts: Int[Tensor, " P"], answers: int, rng: Stream
) -> tuple[Float[Tensor, "K P T"], Int[Tensor, " n"]]:
    """The parts of a Law, and the lengths of the responses that it is computed from.

    At each token the probability to end there is exact, and only what precedes it is sampled: one token exactly, and
    rare lengths without waiting for them.

    Args:
        policy: of one run.
        answers: responses per prompt.
    """
    parts, lengths = [], []
    for _ in range(PARTS):
        rows = []
        for some in prompts[None].split(CHUNK, dim=1):
            with torch.no_grad():
                drawn = policy.draw(some, answers // PARTS, rng)
                end = policy.next_logp(some, drawn.responses)[..., policy.end].exp()
            mask = pad(drawn.mask, (0, policy.tokens - drawn.mask.shape[-1]))[0]
            end = pad(end, (0, policy.tokens - end.shape[-1]))[0]
            end[..., -1] = 1  # the limit ends what has not ended
            rows.append(torch.where(mask, end, 0.0).mean(1))
            lengths.append(drawn.lengths.flatten())
        parts.append(torch.cat(rows))
    return torch.stack(parts), torch.cat(lengths)
