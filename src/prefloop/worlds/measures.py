"""Evaluation of stacked policies under known rewards: exact for one-token responses, otherwise Rao-Blackwellised.

Everything is computed from full next-token distributions: at each token of a sampled response the expectation over
the next token is exact, so only prefixes are sampled. With one token there is no prefix, and nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.kl import exact
from prefloop.core.metrics import GROUPS
from prefloop.core.streams import Stream

PerRun = Float[Tensor, " S"]
Score = Callable[[Batch], Float[Tensor, "S P G"]]
ROWS = 256  # responses per run that are drawn at a time


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
    rewards: Mapping[str, Float[Tensor, "S *P V"]],
    regions: Mapping[str, Bool[Tensor, "S *P V"]],
    *,
    tokens: int,
    rng: Stream,
    group: int = 4,
) -> dict[str, PerRun]:
    """Expected rewards, KL both ways, entropy and mass by region on a fixed set of prompts, [S] each with `_se`.

    KLs and entropy are in nats per response, rewards and masses are means per token. For sequences, `group` responses
    of each policy are sampled per prompt.

    Args:
        rewards: metric key → reward of each arm, the same for all prompts or one per prompt.
        regions: which arms belong to a region, likewise.
    """

    def at(table: Shaped[Tensor, "S *P V"]) -> Shaped[Tensor, "S p 1 1 V"]:
        return (table[:, None] if table.ndim == 2 else table)[:, :, None, None]

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
            **{key: (p * at(reward)).sum(-1).mean(-1) for key, reward in rewards.items()},
            "eval/kl_reverse_exact": exact(own, base).sum(-1),
            "eval/kl_forward_exact": exact(home, away).sum(-1),
            "eval/entropy": -(p * torch.where(p > 0, own, 0.0)).sum((-2, -1)),
            **{f"eval/mass/{name}": (p * at(inside)).sum(-1).mean(-1) for name, inside in regions.items()},
        }
        out: dict[str, PerRun] = {}
        for name, value in values.items():
            out[name], out[f"{name}_se"] = over_prompts(value)
        return out


def responses_of(
    policy: Nested,
    reference: Nested,
    prompts: Int[Tensor, "S P"],
    judges: Mapping[str, Score],
    costly: Mapping[str, Score],
    theirs: Batch,
    *,
    answers: int,
    tokens: int,
    rng: Stream,
) -> dict[str, PerRun]:
    """Rewards, length, KL both ways and entropy of variable-length responses, [S] each with `_se`.

    KLs and entropy are in nats per response, Rao-Blackwellised over each next token. `eval/length/n` is the share of
    responses with n tokens, `eval/cut` the share that reached the limit. What costs a forward pass of its own (KL,
    entropy, `costly`) is measured on the first of the `answers` to each prompt.

    Args:
        judges: metric key → scores of a reward.
        costly: the same for rewards that are computed by a network.
        theirs: fixed responses of the reference to the first of the prompts.
        tokens: the length limit.
    """
    with torch.no_grad():
        parts, shares = [], []
        for some in prompts.split(max(1, ROWS // answers), dim=1):
            mine = policy.draw(some, answers, rng)
            parts.append(_of_responses(policy, reference, mine, judges, costly))
            shares.append(torch.stack([(mine.lengths == n).sum(GROUPS) for n in range(1, tokens + 1)]))
        values = {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
        away, home = (p.next_logp(theirs.prompts, theirs.responses)[theirs.mask] for p in (policy, reference))
        values["eval/kl_forward_exact"] = _total(exact(home, away), theirs)
        out: dict[str, PerRun] = {}
        for name, value in values.items():
            out[name], out[f"{name}_se"] = over_prompts(value)
        law = torch.stack(shares).sum(0) / (prompts.shape[1] * answers)
        return out | {f"eval/length/{n}": share.double() for n, share in enumerate(law, 1)}


def _of_responses(
    policy: Nested, reference: Nested, mine: Batch, judges: Mapping[str, Score], costly: Mapping[str, Score]
) -> dict[str, Tensor]:
    """What is measured of each response, [S P G] or, if it costs a forward pass, [S P 1]."""
    first = Batch(mine.prompts, mine.responses[:, :, :1], mine.mask[:, :, :1])
    own, base = (p.next_logp(first.prompts, first.responses)[first.mask] for p in (policy, reference))
    return {
        **{name: judge(mine) for name, judge in judges.items()},
        **{name: judge(first) for name, judge in costly.items()},
        "eval/length": mine.lengths.to(own.dtype),
        "eval/cut": policy.is_cut(mine).to(own.dtype),  # type: ignore[attr-defined]
        "eval/kl_reverse_exact": _total(exact(own, base), first),
        "eval/entropy": _total(-(own.exp() * own).sum(-1), first),
    }


def _total(each: Float[Tensor, " N"], batch: Batch) -> Float[Tensor, "S P G"]:
    """Sum over the tokens of each response."""
    whole = each.new_zeros(batch.mask.shape)
    whole[batch.mask] = each
    return whole.sum(-1)
