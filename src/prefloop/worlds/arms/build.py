"""The didactic problems as parts of a loop: arms, sequences and the plain categorical."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.method import Method
from prefloop.core.streams import Stream
from prefloop.lab.setting import Setting, per_run
from prefloop.policies.gpt import GPT
from prefloop.policies.mlp import MLP
from prefloop.policies.stacked import Stacked
from prefloop.worlds.arms import problem as bandit
from prefloop.worlds.arms.defects import Parts, install
from prefloop.worlds.arms.problem import ARMS, CONTEXT, HUMP, TOKENS, Bandit, Draw, Law
from prefloop.worlds.measures import state_of

FIRST = 50  # width of the MLP's first hidden layer


def parts(settings: Sequence[Setting], row: Method, dtype: torch.dtype) -> tuple[Parts, Any]:
    """What the loop runs with, and how its policy is evaluated."""
    one, seeds = settings[0], [s.seed for s in settings]
    tokens = TOKENS if one.problem == "sequences" else 1
    draw = prompts_of(one, seeds, dtype)
    policy = reference_policy(one, seeds, dtype)
    gold = bandit.bump(per_run(settings, "centre"), per_run(settings, "width")).to(dtype)
    data = offline_data(settings, policy, draw, gold) if row.on_policy < 1 or one.scorer == "proxy" else None
    proxy = bandit.learned_reward(data, seeds) if data is not None and one.scorer == "proxy" else None
    made = Parts(row, policy, policy.reference(), Bandit(draw, gold, proxy, data, bandit.reference_law()))
    made = install(one.defect, made, seeds) if one.defect else made
    prompts = draw(0, min(one.evaluation, one.contexts or one.evaluation), Stream("evaluation set", seeds, True))
    found = regions(settings)

    def look(policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        rewards = {"eval/reward": gold if proxy is None else proxy, "eval/gold": gold}
        return state_of(policy, reference, prompts, rewards, found, tokens=tokens, rng=rng, group=1)

    return made, look


def prompts_of(one: Setting, seeds: Sequence[int], dtype: torch.dtype) -> Draw:
    """How prompts are drawn: tokens, places in a list, a list of contexts, or fresh contexts."""
    if one.problem == "sequences":
        return bandit.prompt_tokens
    if one.family == "tabular":
        return bandit.indexed(len(seeds), max(1, one.contexts))
    if one.contexts:
        return bandit.listed(Stream("contexts", seeds, True).rand(one.contexts, CONTEXT).to(dtype))
    return bandit.fresh(dtype)


def reference_policy(one: Setting, seeds: Sequence[int], dtype: torch.dtype) -> Any:
    """A policy per run that has been fitted to the reference law; its copy is the reference."""
    if one.family == "tabular":
        return bandit.tabular_reference(len(seeds), max(1, one.contexts), dtype)
    known = sorted(set(seeds))
    fitted = _fitted(one.family, one.hidden, one.fit, dtype, tuple(known))
    return fitted.take(torch.tensor([known.index(s) for s in seeds]))


@cache
def _fitted(family: str, hidden: int, objective: str, dtype: torch.dtype, seeds: tuple[int, ...]) -> Stacked:
    """Kept in memory, because the cells of a sweep share their seeds."""
    policy: Any = GPT.create(seeds, dtype=dtype) if family == "gpt" else None
    if policy is None:
        policy = MLP.create(seeds, hidden=(FIRST, hidden, hidden) if family == "mlp" else (), dtype=dtype)
    draw = bandit.prompt_tokens if family == "gpt" else bandit.fresh(dtype)
    bandit.fit(policy, draw, TOKENS if family == "gpt" else 1, objective, seeds)
    return policy


def offline_data(settings: Sequence[Setting], policy: Any, draw: Draw, gold: Tensor) -> Batch:
    """The reference's responses, of which the skewed law replaces its share, with gold or noisy scores, and labels."""
    one, seeds = settings[0], [s.seed for s in settings]
    rng = Stream("data", seeds, stacked=True)
    with torch.no_grad():
        drawn = policy.sample(draw(0, one.data, rng), one.responses, rng)
    data = Batch(drawn.prompts, drawn.responses, drawn.mask)
    if one.shared:
        data = bandit.sharing(data, one.shared, rng)
    law = Law(*(per_run(settings, n) for n in ("coverage", "skew_centre", "skew_width")))
    data = bandit.skewed(data, law, rng)  # draws the same numbers whatever the law, so that stacked equals alone
    scores = bandit.mean_reward(gold, data.responses)
    if one.labels == "noisy":
        scores = bandit.noisy(scores, per_run(settings, "temperature"), rng)
    return bandit.labelled(replace(data, scores=scores), gold, bandit.reference_law())


def regions(settings: Sequence[Setting]) -> dict[str, Bool[Tensor, "S V"]]:
    """`peak`: within one width of the reward's centre; `hump`: the reference's mode at 20; `edges`: its other two."""
    arm = torch.arange(ARMS)
    centre, width = (per_run(settings, n)[:, None] for n in ("centre", "width"))
    peak = (arm - centre).abs() <= width
    hump = ((arm >= HUMP[0]) & (arm < HUMP[1])).expand(peak.shape)
    edges = ((arm == 0) | (arm == ARMS - 1)).expand(peak.shape)
    return {"peak": peak, "hump": hump, "edges": edges}
