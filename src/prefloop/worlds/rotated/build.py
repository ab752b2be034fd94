"""Build the parts of a loop for the rotated bandit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.streams import Stream
from prefloop.policies.mlp import MLP
from prefloop.worlds.arms.problem import replaced
from prefloop.worlds.measures import state_of
from prefloop.worlds.optimum import product_optimum
from prefloop.worlds.rewarded import Rewarded, Typical, labelled, noisy, ranked
from prefloop.worlds.rotated import problem as circle
from prefloop.worlds.rotated.problem import Clusters, ContextReward
from prefloop.worlds.rotated.spec import Rotated
from prefloop.worlds.spec import Built, Stack

KEPT = 256  # learned rewards in memory
REWARDS: dict[tuple[Any, ...], dict[str, Tensor]] = {}


def build(stack: Stack) -> Built:
    """Policy, reference, problem and evaluation of a stack of Rotated."""
    one, seeds, method = stack.world, stack.seeds, stack.method
    around = circle.clusters(seeds, one.clusters, one.noise, one.arms, stack.dtype)
    policy = reference_policy(one, seeds, stack.dtype)
    gold = ContextReward(around.turned(tables(stack).to(stack.dtype)))
    prompts = around.each(stack.evaluation, Stream("evaluation set", seeds, True))
    law = circle.reference_law(one.arms).to(stack.dtype).expand(len(seeds), -1)
    typical = circle.under(around.turned(law), prompts)
    offline, ordinal = method.on_policy < 1, one.labels == "ordinal"
    data = offline_data(stack, policy, around, gold, typical) if offline or one.scorer == "proxy" else None
    proxy = reward_model(stack, data) if data is not None and one.scorer == "proxy" else None
    with torch.no_grad():
        rewards = {"eval/reward": (proxy or gold).of(prompts), "eval/gold": gold.of(prompts)}
    where = {name: around.turned(at)(prompts) for name, at in regions(stack).items()}

    def evaluate(policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        return state_of(policy, reference, prompts, rewards, where, tokens=1, rng=rng)

    problem = Rewarded(around.draw, gold, proxy, data, typical, ordinal)
    return Built(method, policy, policy.reference(), problem, evaluate, one.data * method.responses if offline else 0)


def tables(stack: Stack) -> Float[Tensor, "S V"]:
    """The reward of each relative arm, per run."""
    return circle.reward_table(places(stack), stack.each("width"), stack.each("modes"), stack.world.arms)


def places(stack: Stack) -> Float[Tensor, " S"]:
    """The relative arm of the reward's first peak, per run."""
    return torch.tensor([circle.distance(w.mass, w.width, w.arms) for w in stack.worlds], dtype=torch.float64)


def start(one: Rotated) -> float:
    """Mean gold reward under the reference law, the same in every context."""
    return float((circle.reference_law(one.arms) * _table(one)).sum())


def optimum(one: Rotated, beta: float) -> float:
    """The highest J_β under the reference law, the same in every context."""
    return product_optimum(circle.reference_law(one.arms), _table(one), beta)


def _table(one: Rotated) -> Float[Tensor, " V"]:
    place = circle.distance(one.mass, one.width, one.arms)
    return circle.reward_table(place, one.width, one.modes, one.arms)


def reference_policy(one: Rotated, seeds: Sequence[int], dtype: torch.dtype) -> MLP:
    """A network per run, fitted to the rotated law; its copy is the reference."""
    known = sorted(set(seeds))
    hidden = one.hidden if one.policy == "mlp" else 0
    fitted = _fitted(one.clusters, one.noise, one.arms, hidden, dtype, tuple(known))
    return fitted.take(torch.tensor([known.index(s) for s in seeds]))


@cache
def _fitted(number: int, noise: float, arms: int, hidden: int, dtype: torch.dtype, seeds: tuple[int, ...]) -> MLP:
    """Cached in memory, because the cells of a sweep share their seeds."""
    around = circle.clusters(seeds, number, noise, arms, dtype)
    policy = circle.network(seeds, arms, hidden, dtype)
    law = around.turned(circle.reference_law(arms).to(dtype).expand(len(seeds), -1))
    circle.fit(policy, around.draw, law, seeds)
    return policy


def offline_data(stack: Stack, policy: MLP, around: Clusters, gold: ContextReward, typical: Typical) -> Batch:
    """Responses of the reference, a share of them replaced by the skewed law, with scores and labels."""
    one, rng = stack.world, Stream("data", stack.seeds, stacked=True)
    drawn = policy.draw(around.draw(0, one.data, rng), stack.method.responses, rng)
    data = around.relative(Batch(drawn.prompts, drawn.responses, drawn.mask))
    weight = circle.bump(stack.each("skew_centre"), stack.each("skew_width"), one.arms)
    data = around.relative(replaced(data, stack.each("coverage"), weight, rng), sign=1)
    scores = gold(data)
    if one.labels == "noisy":
        scores = noisy(scores, stack.each("temperature"), rng)
    data = labelled(replace(data, scores=scores), gold, typical)
    return ranked(data) if one.labels == "ordinal" else data


def reward_model(stack: Stack, data: Batch) -> ContextReward:
    """The reward learned from each run's data; in memory, because the cells of a sweep share worlds and seeds."""
    one, states = stack.world, []
    for i, seed in enumerate(stack.seeds):
        key = (stack.worlds[i], seed, stack.method.responses, stack.dtype, torch.get_default_device())
        if key not in REWARDS:  # fitted alone, so that other runs cannot affect it
            REWARDS[key] = circle.learned_reward(_alone(data, i), [seed], one.arms, hidden=one.hidden)
        states.append(REWARDS[key])
    while len(REWARDS) > KEPT:
        REWARDS.pop(next(iter(REWARDS)))
    return circle.scorer({k: torch.cat([state[k] for state in states]) for k in states[0]}, one.arms)


def _alone(data: Batch, run: int) -> Batch:
    """One run of a stack."""
    parts = {f.name: getattr(data, f.name) for f in fields(data)}
    return Batch(**{k: x[run : run + 1] if isinstance(x, Tensor) else x for k, x in parts.items()})


def regions(stack: Stack) -> dict[str, Bool[Tensor, "S V"]]:
    """Relative arms within one width of the reward's first peak, and of the reference's mode."""
    width, arms = stack.each("width"), stack.world.arms
    return {
        "peak": circle.away(places(stack), arms) <= width[:, None],
        "hump": circle.away(torch.zeros_like(width), arms) <= width[:, None],
    }
