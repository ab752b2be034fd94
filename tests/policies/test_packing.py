"""Packs keep the budget and lose nothing; features are the model's own hidden states."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from prefloop.core.batch import Batch
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.packing import features, packs
from prefloop.policies.sampler import Sampling

ITEMS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), max_size=30)


@given(ITEMS, st.integers(1, 120))
def test_packs_are_a_partition_within_the_budget(items: list[tuple[int, int]], budget: int) -> None:
    widths, rows = [w for w, _ in items], [r for _, r in items]
    found = packs(widths, budget, rows)
    assert sorted(i for pack in found for i in pack) == list(range(len(items)))
    for pack in found:
        assert len(pack) == 1 or sum(rows[i] for i in pack) * max(widths[i] for i in pack) <= budget
        assert [widths[i] for i in pack] == sorted((widths[i] for i in pack), reverse=True)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 120))
def test_a_pack_ends_only_where_the_next_item_does_not_fit(widths: list[int], budget: int) -> None:
    found = packs(widths, budget)
    for pack, following in pairwise(found):
        assert (len(pack) + 1) * widths[pack[0]] > budget
        assert widths[following[0]] <= widths[pack[-1]]


def test_features_are_the_states_that_predict_each_response_token() -> None:
    model = tiny.llama()
    policy = CausalLM(model, tiny.tokenizer(), sampling=Sampling(max_new_tokens=4))
    prompts = [torch.tensor([2, 3, 4]), torch.tensor([5, 6])]
    responses = torch.tensor([[[7, 8, 9], [3, 0, 0]], [[4, 4, 0], [0, 0, 0]]])
    mask = torch.tensor([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [0, 0, 0]]]).bool()
    with torch.no_grad():
        found = features(policy.network.hidden, Batch(prompts, responses, mask))
        assert found.shape == (2, 2, 3, model.config.hidden_size)
        for p, prompt in enumerate(prompts):
            for g in range(2):
                n = int(mask[p, g].sum())
                states = model.model(torch.cat([prompt, responses[p, g, :n]])[None]).last_hidden_state[0]
                torch.testing.assert_close(found[p, g, :n], states[len(prompt) - 1 :][:n], rtol=1e-12, atol=1e-12)
                assert not found[p, g, n:].any()
