"""Offline data for prompt-only datasets: scored responses of the reference, drawn once before training."""

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
    """Number of offline groups that a run trains on, at most one per training prompt.

    Args:
        prompts: number of training prompts.
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
    """Scored groups of reference responses to the first `groups` training prompts in the seed's order."""
    prompts = problem.prompts(0, groups, streams(seed)["prompts"])
    with torch.no_grad():
        drawn = reference.draw(prompts, responses, streams(seed)["dataset"], poll)
    return replace(problem.score(drawn), logp_behaviour=None, logp_proximal=None)
