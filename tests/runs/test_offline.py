"""How many offline groups a run needs, against a direct count of what its loop asks for."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from prefloop.core.loop import Plan
from prefloop.core.methods import METHODS
from prefloop.runs.offline import offline_groups


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
