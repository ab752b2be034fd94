"""How many offline groups a run needs, against a direct count of what its loop asks for, and what they hold."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import tiny
from prefloop.core.loop import Plan
from prefloop.core.methods import METHODS
from prefloop.core.streams import streams
from prefloop.data.records import Group, Message
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.conversation import template_of
from prefloop.policies.sampler import Sampling
from prefloop.runs.offline import collect_offline, offline_groups
from prefloop.worlds.text.problem import TextProblem


@given(
    responses=st.integers(2, 4),
    groups=st.integers(1, 6),
    minibatches=st.integers(1, 4),
    reuse=st.integers(1, 4),
    steps=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    prompts=st.integers(1, 300),
)
def test_as_many_offline_groups_as_the_loop_asks_for(
    responses: int, groups: int, minibatches: int, reuse: int, steps: int, share: float, prompts: int
) -> None:
    """Every `reuse` × `minibatches` steps, begun or whole, take a collection; its groups are fresh or offline."""
    method = METHODS["dpo"].override(responses=responses, reuse=reuse, on_policy=share)
    per_collection = groups * minibatches
    plan = Plan(steps, batch=per_collection * responses, minibatch=groups * responses, lr=1.0)
    fresh = round(share * per_collection)
    assume(share in (0, 1) or 0 < fresh < per_collection)  # no mixture otherwise
    plan.check(method)

    asked = 0
    for step in range(steps):
        if step % (reuse * minibatches) == 0:
            asked += sum(1 for group in range(per_collection) if group >= fresh)
    assert offline_groups(method, plan, prompts) == min(asked, prompts)


def test_the_collection_is_the_references_scored_responses_to_the_first_prompts() -> None:
    train = [Group((Message("user", word),), (), None, word, row) for row, word in enumerate("abc")]
    tokenizer, polled = tiny.tokenizer(), []
    reference = CausalLM(tiny.llama(), tokenizer, sampling=Sampling(max_new_tokens=4), frozen=True)
    problem = TextProblem(train, template_of(tokenizer), scorer=lambda batch: batch.lengths.double())
    got = collect_offline(problem, reference, 2, 3, seed=5, poll=lambda: polled.append(1))
    prompts = problem.prompts(0, 3, streams(5)["prompts"])[:2]
    assert [p.tolist() for p in got.prompts] == [p.tolist() for p in prompts]
    drawn = reference.draw(prompts, 3, streams(5)["dataset"])
    assert torch.equal(got.responses, drawn.responses) and torch.equal(got.mask, drawn.mask)
    assert got.scores is not None and torch.equal(got.scores, drawn.lengths.double())
    assert got.logp_behaviour is None and got.logp_proximal is None and polled
