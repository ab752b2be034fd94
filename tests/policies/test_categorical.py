"""The tabular policy against enumeration: log-probs, sampling, entropy, exact KL, stacking."""

from __future__ import annotations

import math

import pytest
import torch

from prefloop.core.batch import Batch
from prefloop.core.streams import Stream
from prefloop.policies.categorical import Categorical
from toys import F64, tabular

NODES = 4  # one empty prefix and three of one token, for 3 arms and 2 tokens


def stream(seed: int | list[int], name: str = "sampling") -> Stream:
    return Stream(name, [seed] if isinstance(seed, int) else seed, not isinstance(seed, int))


def test_log_probs_follow_the_chain_rule_by_hand() -> None:
    policy = tabular(2, 3, 2, seed=3)
    every = policy.every_response()
    assert every.tolist() == [[a, b] for a in range(3) for b in range(3)]
    got = policy.distribution(torch.tensor([1, 0])).detach()
    for row, x in enumerate((1, 0)):
        for k, (a, b) in enumerate(every.tolist()):
            first = policy.logits[x, 0].detach().tolist()
            second = policy.logits[x, 1 + a].detach().tolist()  # the prefix "a" is node 0·3 + 1 + a
            want = first[a] - math.log(sum(map(math.exp, first))) + second[b] - math.log(sum(map(math.exp, second)))
            assert float(got[row, k]) == pytest.approx(want, abs=1e-13)
    assert got.exp().sum(-1).tolist() == pytest.approx([1.0, 1.0])


def test_three_tokens_have_their_own_prefixes() -> None:
    policy = tabular(1, 2, 3, seed=4)
    assert policy.distribution(torch.tensor([0])).exp().sum().item() == pytest.approx(1.0)
    heap = [[0, 1 + a, (1 + a) * 2 + 1 + b] for a, b, _ in policy.every_response().tolist()]
    every = policy.every_response()[None]
    assert policy._nodes(every)[0].tolist() == heap
    with pytest.raises(ValueError, match="7 prefixes"):
        Categorical(torch.zeros(1, 6, 2), 3)


def test_entropy_of_every_token_and_values_of_every_prefix() -> None:
    policy = tabular(1, 3, 2, seed=5)
    with torch.no_grad():
        policy.critic.copy_(torch.arange(NODES, dtype=F64)[None])
    tokens = torch.tensor([[[2, 1]]])
    batch = Batch(torch.tensor([0]), tokens, torch.ones_like(tokens, dtype=torch.bool))
    seen = policy.evaluate(batch, entropy=True, values=True)
    assert seen.values is not None and seen.values.flatten().tolist() == [0.0, 3.0]
    assert seen.entropy is not None
    for t, node in enumerate((0, 3)):
        p = policy.logits[0, node].detach().softmax(-1).tolist()
        assert float(seen.entropy[0, 0, t].detach()) == pytest.approx(-sum(v * math.log(v) for v in p))
    bare = policy.evaluate(batch)
    assert bare.entropy is None and bare.values is None


def test_masked_tokens_have_log_prob_zero() -> None:
    policy = tabular(1, 3, 2)
    batch = Batch(torch.tensor([0]), torch.tensor([[[2, 1]]]), torch.tensor([[[True, False]]]))
    seen = policy.evaluate(batch, entropy=True)
    assert seen.logp[0, 0, 1] == 0 and seen.entropy is not None and seen.entropy[0, 0, 1] == 0


def test_samples_follow_the_distribution() -> None:
    policy, draws = tabular(1, 3, 2, seed=6), 30_000
    drawn = policy.draw(torch.tensor([0]), draws, stream(1))
    place = drawn.responses[0, :, 0] * 3 + drawn.responses[0, :, 1]
    share = torch.bincount(place, minlength=9) / draws
    want = policy.distribution(torch.tensor([0]))[0].exp().detach()
    sigma = (want * (1 - want) / draws).sqrt()
    assert ((share - want).abs() < 4.5 * sigma).all()


def test_samples_carry_their_own_log_probs() -> None:
    policy = tabular(3, 3, 2)
    drawn = policy.draw(torch.tensor([2, 0]), 5, stream(1))
    assert drawn.logp_behaviour is not None and drawn.logp_proximal is not None
    assert not drawn.logp_behaviour.requires_grad
    assert torch.equal(drawn.logp_behaviour, policy.evaluate(drawn).logp.detach())
    assert torch.equal(drawn.logp_behaviour, drawn.logp_proximal)
    assert drawn.logp_behaviour.data_ptr() != drawn.logp_proximal.data_ptr()
    assert drawn.mask.all() and drawn.responses.shape == (2, 5, 2)


def test_sampling_polls_at_every_token() -> None:
    calls: list[int] = []
    tabular(1, 2, 3).draw(torch.tensor([0]), 2, stream(0), lambda: calls.append(1))
    assert len(calls) == 3


def test_an_impossible_arm_is_never_drawn() -> None:
    logits = torch.tensor([[[0.0, -torch.inf, 0.0, -torch.inf]]], dtype=F64)
    drawn = Categorical(logits).draw(torch.tensor([0]), 5000, stream(2)).responses
    assert set(drawn.flatten().tolist()) == {0, 2}


def test_stacked_runs_equal_each_alone() -> None:
    alone = [tabular(2, 3, 2, seed=s) for s in (1, 2)]
    both = Categorical(torch.stack([p.logits.detach() for p in alone]), 2)
    prompts = torch.tensor([[0, 1, 1], [1, 0, 1]])
    drawn = both.draw(prompts, 4, stream([8, 9]))
    seen = both.evaluate(drawn, entropy=True, values=True)
    both.reference()
    assert seen.entropy is not None
    for run, policy in enumerate(alone):
        own = policy.draw(prompts[run], 4, stream(8 + run))
        mine = policy.evaluate(own, entropy=True)
        policy.reference()
        assert torch.equal(drawn.responses[run], own.responses) and mine.entropy is not None
        assert torch.allclose(seen.logp[run], mine.logp, atol=1e-15)
        assert torch.allclose(seen.entropy[run], mine.entropy, atol=1e-15)
        assert torch.allclose(both.exact_kl(drawn)[run], policy.exact_kl(own), atol=1e-15)


def test_the_reference_is_a_frozen_copy_and_anchors_the_kl() -> None:
    policy = tabular(1, 3, 1)
    with pytest.raises(ValueError, match="reference"):
        policy.exact_kl(policy.draw(torch.tensor([0]), 1, stream(0)))
    reference = policy.reference()
    before = reference.logits.clone()
    drawn = policy.draw(torch.tensor([0]), 2, stream(0))
    assert policy.exact_kl(drawn).abs().max() < 1e-15
    with torch.no_grad():
        policy.logits.add_(torch.tensor([1.0, 0.0, -1.0], dtype=F64))
    assert torch.equal(reference.logits, before) and not reference.logits.requires_grad
    p, q = policy.logits[0, 0].detach().softmax(-1), before[0, 0].softmax(-1)
    want = float((p * (p / q).log()).sum())
    assert policy.exact_kl(drawn)[0].tolist() == pytest.approx([want, want])


def test_state_is_a_copy_and_comes_back() -> None:
    policy = tabular(2, 3, 2)
    saved = policy.state()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(1.0)
    assert not torch.equal(saved["logits"], policy.logits)
    policy.restore(saved)
    assert torch.equal(saved["logits"], policy.logits) and torch.equal(saved["critic"], policy.critic)
