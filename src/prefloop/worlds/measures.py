"""Evaluation of stacked policies under known rewards: exact for one-token responses, otherwise Rao-Blackwellised.

Everything is computed from full next-token distributions: at each token of a sampled response the expectation over
the next token is exact, so only prefixes are sampled. With one token there is no prefix, and nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.kl import exact
from prefloop.core.metrics import GROUPS
from prefloop.core.streams import Stream

PerRun = Float[Tensor, " S"]


@runtime_checkable
class Nested(Protocol):
    """A policy that can be sampled and that gives the next-token distributions along a response."""

    def draw(self, prompts: Any, responses: int, rng: Stream) -> Batch: ...

    def next_logp(self, prompts: Any, responses: Int[Tensor, "S P G T"]) -> Float[Tensor, "S P G T V"]: ...


def over_prompts(x: Float[Tensor, "S P G"]) -> tuple[PerRun, PerRun]:
    """Mean over prompts and its standard error; groups are averaged first."""
    each = x.mean(-1)
    return each.mean(-1), each.std(-1) / each.shape[-1] ** 0.5


def state_of(
    policy: Nested,
    reference: Nested,
    prompts: Tensor,
    rewards: Mapping[str, Float[Tensor, "S V"]],
    regions: Mapping[str, Bool[Tensor, "S V"]],
    *,
    tokens: int,
    rng: Stream,
    group: int = 4,
) -> dict[str, PerRun]:
    """Expected rewards, KL both ways, entropy and mass by region on a fixed set of prompts, [S] each with `_se`.

    KLs and entropy are in nats per response, rewards and masses are means per token. For sequences, `group` responses
    of each policy are sampled per prompt.

    Args:
        rewards: metric key → reward of each arm.
    """
    with torch.no_grad():
        if tokens == 1:
            own_path = other_path = torch.zeros(*prompts.shape[:2], 1, 1, dtype=torch.long)
        else:
            own_path = policy.draw(prompts, group, rng).responses
            other_path = reference.draw(prompts, group, rng).responses
        own, base = policy.next_logp(prompts, own_path), reference.next_logp(prompts, own_path)
        away, home = policy.next_logp(prompts, other_path), reference.next_logp(prompts, other_path)
        p = own.exp()
        values = {
            **{key: (p * reward[:, None, None, None]).sum(-1).mean(-1) for key, reward in rewards.items()},
            "eval/kl_reverse_exact": exact(own, base).sum(-1),
            "eval/kl_forward_exact": exact(home, away).sum(-1),
            "eval/entropy": -(p * torch.where(p > 0, own, 0.0)).sum((-2, -1)),
            **{f"eval/mass/{name}": (p * at[:, None, None, None]).sum(-1).mean(-1) for name, at in regions.items()},
        }
        out: dict[str, PerRun] = {}
        for name, value in values.items():
            out[name], out[f"{name}_se"] = over_prompts(value)
        return out


def responses_of(
    policy: Nested,
    reference: Nested,
    prompts: Tensor,
    judges: Mapping[str, Callable[[Batch], Float[Tensor, "S P G"]]],
    theirs: Batch,
    *,
    tokens: int,
    rng: Stream,
) -> dict[str, PerRun]:
    """Rewards, length, KL both ways and entropy of variable-length responses, [S] each with `_se`.

    KLs and entropy are in nats per response, Rao-Blackwellised over each next token. `eval/length/n` is the share of
    responses with n tokens, `eval/cut` the share that reached the limit.

    Args:
        judges: metric key → scores of a reward.
        theirs: fixed responses of the reference to the same prompts.
        tokens: the length limit.
    """
    with torch.no_grad():
        mine = policy.draw(prompts, 1, rng)
        own, base = (p.next_logp(prompts, mine.responses)[mine.mask] for p in (policy, reference))
        away, home = (p.next_logp(prompts, theirs.responses)[theirs.mask] for p in (policy, reference))

        def total(each: Float[Tensor, " N"], batch: Batch) -> Float[Tensor, "S P G"]:
            whole = each.new_zeros(batch.mask.shape)
            whole[batch.mask] = each
            return whole.sum(-1)

        values = {name: judge(mine) for name, judge in judges.items()}
        values |= {
            "eval/length": mine.lengths.to(own.dtype),
            "eval/cut": policy.is_cut(mine).to(own.dtype),  # type: ignore[attr-defined]
            "eval/kl_reverse_exact": total(exact(own, base), mine),
            "eval/kl_forward_exact": total(exact(home, away), theirs),
            "eval/entropy": total(-(own.exp() * own).sum(-1), mine),
        }
        out: dict[str, PerRun] = {}
        for name, value in values.items():
            out[name], out[f"{name}_se"] = over_prompts(value)
        for n in range(1, tokens + 1):
            out[f"eval/length/{n}"] = (mine.lengths == n).double().mean(GROUPS)
        return out
