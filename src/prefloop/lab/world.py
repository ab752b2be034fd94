"""From the settings of one stack to the loop that runs them all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop import objectives, weights
from prefloop.batch import Batch, Stream
from prefloop.lab.defects import Parts, install
from prefloop.lab.setting import Setting, per_run_names
from prefloop.loop import Loop, Plan
from prefloop.methods import Method
from prefloop.optim import StackedAdam
from prefloop.policies.gpt import GPT
from prefloop.policies.mlp import MLP
from prefloop.policies.stacked import Stacked
from prefloop.problems import bandit
from prefloop.problems.bandit import ARMS, CONTEXT, HUMP, TOKENS, Bandit, Draw, Law

FIRST = 50  # width of the MLP's first hidden layer
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class World:
    """A stack ready to run.

    Args:
        loop: over all runs of the stack.
        prompts: the fixed evaluation set.
        gold: reward of each arm.
        regions: arms whose probability mass is followed.
        offline: responses in the offline data, 0 where the row uses none.
    """

    loop: Loop
    prompts: Tensor
    gold: Float[Tensor, "S V"]
    regions: dict[str, Bool[Tensor, "S V"]]
    tokens: int
    offline: int


def build(settings: Sequence[Setting]) -> World:
    """The world of settings that share a stack key."""
    one, seeds = settings[0], [s.seed for s in settings]
    dtype, tokens = DTYPES[one.precision], TOKENS if one.problem == "sequences" else 1
    row, plan = stacked_row(settings, dtype), stacked_plan(settings, dtype)
    draw = prompts_of(one, seeds, dtype)
    policy = reference_policy(one, seeds, dtype)
    gold = bandit.bump(_per_run(settings, "centre"), _per_run(settings, "width")).to(dtype)
    offline = row.on_policy < 1 or one.scorer == "proxy"
    data = offline_data(settings, policy, draw, gold) if offline else None
    proxy = bandit.learned_reward(data, seeds) if data is not None and one.scorer == "proxy" else None
    bar = (bandit.reference_law().to(gold) * gold).sum(-1) if reads_labels(row) else None
    if data is not None and bar is not None and data.scores is not None:
        data = replace(data, scores=bandit.labelled(data.scores, bar))
    parts = Parts(row, policy, policy.reference(), Bandit(draw, gold, proxy, bar, data))
    parts = install(one.defect, parts, seeds) if one.defect else parts
    optimizer = StackedAdam(policy.parameters(), lr=plan.lr)
    loop = Loop(
        parts.row, parts.policy, parts.problem, plan, reference=parts.reference, optimizer=optimizer, seed=seeds
    )
    prompts = draw(0, min(one.evaluation, one.contexts or one.evaluation), Stream("evaluation set", seeds, True))
    size = 0 if data is None or row.on_policy == 1 else one.data * one.responses
    return World(loop, prompts, gold, regions(settings), tokens, size)


def stacked_row(settings: Sequence[Setting], dtype: torch.dtype) -> Method:
    """The row, with one value per run of what differs between the runs."""
    row, many = settings[0].row, {}
    for name in per_run_names(row) & settings[0].override.keys():
        values = [s.override[name] for s in settings]
        if len(set(values)) > 1:
            many[name] = torch.tensor(values, dtype=dtype)
    return row.override(**many)


def stacked_plan(settings: Sequence[Setting], dtype: torch.dtype) -> Plan:
    lr, limit = (torch.tensor([getattr(s, n) for s in settings], dtype=dtype) for n in ("lr", "max_grad_norm"))
    return replace(settings[0].plan, lr=lr, max_grad_norm=limit)


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
    """The reference's responses, of which the skewed law replaces its share, with gold or noisy scores."""
    one, seeds = settings[0], [s.seed for s in settings]
    rng = Stream("data", seeds, stacked=True)
    with torch.no_grad():
        drawn = policy.sample(draw(0, one.data, rng), one.responses, rng)
    data = Batch(drawn.prompts, drawn.responses, drawn.mask)
    if one.shared:
        data = bandit.sharing(data, one.shared, rng)
    law = Law(*(_per_run(settings, n) for n in ("coverage", "skew_centre", "skew_width")))
    data = bandit.skewed(data, law, rng)  # draws the same numbers whatever the law, so that stacked equals alone
    scores = bandit.mean_reward(gold, data.responses)
    if one.labels == "noisy":
        scores = bandit.noisy(scores, _per_run(settings, "temperature"), rng)
    return replace(data, scores=scores)


def reads_labels(row: Method) -> bool:
    """Whether the sign of a score is a label to this row."""
    return row.objective is objectives.kto or row.weight is weights.positive


def regions(settings: Sequence[Setting]) -> dict[str, Bool[Tensor, "S V"]]:
    """`peak`: within one width of the reward's centre; `hump`: the reference's mode at 20; `edges`: its other two."""
    arm = torch.arange(ARMS)
    centre, width = (_per_run(settings, n)[:, None] for n in ("centre", "width"))
    peak = (arm - centre).abs() <= width
    hump = ((arm >= HUMP[0]) & (arm < HUMP[1])).expand(peak.shape)
    edges = ((arm == 0) | (arm == ARMS - 1)).expand(peak.shape)
    return {"peak": peak, "hump": hump, "edges": edges}


def _per_run(settings: Sequence[Setting], name: str) -> Float[Tensor, " S"]:
    return torch.tensor([getattr(s, name) for s in settings], dtype=torch.float64)
