"""Offline data for prompt-only sets: responses that the reference wrote, scored, drawn once before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from prefloop.core.batch import Batch
from prefloop.core.loop import Plan
from prefloop.core.method import Method
from prefloop.core.protocols import no_op
from prefloop.core.streams import streams
from prefloop.policies.causal_lm import CausalLM
from prefloop.worlds.text.problem import TextProblem


def offline_groups(method: Method, plan: Plan, prompts: int) -> int:
    """Offline groups that a run will train on, at most one per training prompt.

    Args:
        prompts: training prompts.
    """
    per_collection = plan.batch // method.responses
    offline = per_collection - round(method.on_policy * per_collection)
    collections = -(-plan.steps * plan.minibatch // (plan.batch * method.reuse))
    return min(prompts, offline * collections)


def collect_offline(
    problem: TextProblem,
    reference: CausalLM,
    groups: int,
    responses: int,
    *,
    seed: int,
    poll: Callable[[], None] = no_op,
) -> Batch:
    """`groups` groups of the reference's responses to the first training prompts of the seed's order, scored."""
    prompts = problem.prompts(0, groups, streams(seed)["prompts"])
    with torch.no_grad():
        drawn = reference.draw(prompts, responses, streams(seed)["dataset"], poll)
    return replace(problem.score(drawn), logp_behaviour=None, logp_proximal=None)
