"""Build the parts of a loop for the didactic problems: arms, sequences and the plain categorical."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.streams import Stream
from prefloop.policies.gpt import GPT
from prefloop.policies.mlp import MLP
from prefloop.policies.stacked import Stacked
from prefloop.worlds.arms import problem as bandit
from prefloop.worlds.arms.defects import install
from prefloop.worlds.arms.problem import ARMS, CONTEXT, HUMP, ArmReward, Law
from prefloop.worlds.arms.spec import TOKENS, Didactic
from prefloop.worlds.measures import state_of
from prefloop.worlds.optimum import product_optimum
from prefloop.worlds.rewarded import Draw, Rewarded, Typical, labelled, noisy, ranked
from prefloop.worlds.spec import Built, Stack

FIRST = 50  # width of the MLP's first hidden layer


def build(stack: Stack) -> Built:
    """Policy, reference, problem and evaluation of a stack of Arms, Sequences or Categorical."""
    one, seeds = stack.world, stack.seeds
    draw = prompts_of(one, seeds, stack.dtype)
    policy = reference_policy(one, seeds, stack.dtype)
    gold = ArmReward(bandit.bump(stack.each("centre"), stack.each("width")).to(stack.dtype))
    typical = bandit.under(bandit.reference_law())
    offline = stack.method.on_policy < 1
    data = offline_data(stack, policy, draw, gold, typical) if offline or one.scorer == "proxy" else None
    proxy = ArmReward(bandit.learned_reward(data, seeds)) if data is not None and one.scorer == "proxy" else None
    prompts = draw(0, min(stack.evaluation, one.contexts or stack.evaluation), Stream("evaluation set", seeds, True))
    where = regions(stack)

    def evaluate(policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        rewards = {"eval/reward": (proxy or gold).table, "eval/gold": gold.table}
        return state_of(policy, reference, prompts, rewards, where, tokens=one.tokens, rng=rng, group=1)

    problem = Rewarded(draw, gold, proxy, data, typical, one.labels == "ordinal")
    size = one.data * stack.method.responses if offline else 0
    built = Built(stack.method, policy, policy.reference(), problem, evaluate, size)
    return install(one.defect, built, seeds) if one.defect else built


def start(one: Didactic) -> float:
    """Mean gold reward under the reference law."""
    return float((bandit.reference_law() * bandit.bump(one.centre, one.width)).sum())


def optimum(one: Didactic, beta: float) -> float:
    """The highest J_β under the reference law."""
    return product_optimum(bandit.reference_law(), bandit.bump(one.centre, one.width), beta, one.tokens)


def prompts_of(one: Didactic, seeds: Sequence[int], dtype: torch.dtype) -> Draw:
    """How prompts are drawn: tokens, indices into a list, a list of contexts, or fresh contexts."""
    if one.policy == "gpt":
        return bandit.prompt_tokens
    if one.policy == "tabular":
        return bandit.indexed(len(seeds), max(1, one.contexts))
    if one.contexts:
        return bandit.listed(Stream("contexts", seeds, True).rand(one.contexts, CONTEXT).to(dtype))
    return bandit.fresh(dtype)


def reference_policy(one: Didactic, seeds: Sequence[int], dtype: torch.dtype) -> Any:
    """A policy per run, fitted to the reference distribution; its copy is the reference."""
    if one.policy == "tabular":
        return bandit.tabular_reference(len(seeds), max(1, one.contexts), dtype)
    known = sorted(set(seeds))
    fitted = _fitted(one.policy, one.hidden, one.fit, dtype, tuple(known))
    return fitted.take(torch.tensor([known.index(s) for s in seeds]))


@cache
def _fitted(family: str, hidden: int, objective: str, dtype: torch.dtype, seeds: tuple[int, ...]) -> Stacked:
    """Cached in memory, because the cells of a sweep share their seeds."""
    policy: Any = GPT.create(seeds, dtype=dtype) if family == "gpt" else None
    if policy is None:
        policy = MLP.create(seeds, hidden=(FIRST, hidden, hidden) if family == "mlp" else (), dtype=dtype)
    draw = bandit.prompt_tokens if family == "gpt" else bandit.fresh(dtype)
    bandit.fit(policy, draw, TOKENS if family == "gpt" else 1, objective, seeds)
    return policy


def offline_data(stack: Stack, policy: Any, draw: Draw, gold: ArmReward, typical: Typical) -> Batch:
    """Responses of the reference, a share of them replaced by the skewed law, with gold or noisy scores, and labels."""
    one, rng = stack.world, Stream("data", stack.seeds, stacked=True)
    with torch.no_grad():
        drawn = policy.draw(draw(0, one.data, rng), stack.method.responses, rng)
    data = Batch(drawn.prompts, drawn.responses, drawn.mask)
    if one.shared:
        data = bandit.sharing(data, one.shared, rng)
    law = Law(*(stack.each(n) for n in ("coverage", "skew_centre", "skew_width")))
    data = bandit.skewed(data, law, rng)  # draws the same numbers for any law, so that stacked runs equal single ones
    scores = gold(data)
    if one.labels == "noisy":
        scores = noisy(scores, stack.each("temperature"), rng)
    data = labelled(replace(data, scores=scores), gold, typical)
    return ranked(data) if one.labels == "ordinal" else data


def regions(stack: Stack) -> dict[str, Bool[Tensor, "S V"]]:
    """`peak`: within one width of the reward's centre; `hump`: the reference's mode at 20; `edges`: its other two."""
    arm = torch.arange(ARMS)
    centre, width = (stack.each(n)[:, None] for n in ("centre", "width"))
    peak = (arm - centre).abs() <= width
    hump = ((arm >= HUMP[0]) & (arm < HUMP[1])).expand(peak.shape)
    edges = ((arm == 0) | (arm == ARMS - 1)).expand(peak.shape)
    return {"peak": peak, "hump": hump, "edges": edges}
