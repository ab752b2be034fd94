"""Held-out preference accuracy and both KLs: hand values, the 50 % law, and an exact divergence."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from prefloop.analysis.divergence import kl_estimates, sequence_logp
from prefloop.analysis.preference import Preference, preference_accuracy, winner_first
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.protocols import Evaluation, Policy


@dataclass(frozen=True)
class Unigram(Policy):
    """The same distribution over tokens at every position, evaluated in micro-batches of one prompt."""

    logits: Tensor  # [V]
    exact_sampler: bool = True

    def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
        logp = self.logits.log_softmax(0)[batch.responses]
        return Evaluation(torch.where(batch.mask, logp, 0.0))

    def micro_batches(self, batch: Batch) -> list[Tensor]:
        return [torch.tensor([p]) for p in reversed(range(len(batch.mask)))]

    def draw(self, prompts: int, group: int, length: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(self.logits.softmax(0), prompts * group * length, True, generator=generator)
        responses = drawn.view(prompts, group, length)
        return Batch([torch.tensor([0])] * prompts, responses, torch.ones_like(responses, dtype=torch.bool))


def pairs(lengths: list[list[int]], scores: list[list[float]]) -> Batch:
    mask = torch.arange(4) < torch.tensor(lengths)[..., None]
    responses = torch.tensor([[[0, 1, 0, 1], [1, 1, 1, 1]]]).expand(len(lengths), 2, 4) * mask
    return Batch([torch.tensor([0])] * len(lengths), responses, mask, scores=torch.tensor(scores))


def judged(policy: Policy, reference: Policy, batch: Batch, keys: list[object]) -> Preference:
    batch = winner_first(batch)
    own, known = sequence_logp(policy, batch), sequence_logp(reference, batch)
    return preference_accuracy(own, known, batch.lengths, keys)


def test_accuracies_by_hand() -> None:
    policy = torch.tensor([[-4.0, -5.0], [-6.0, -2.0], [-3.0, -3.0], [-8.0, -7.0]])
    reference = torch.tensor([[-5.0, -4.0], [-6.0, -1.0], [-3.0, -3.0], [-9.0, -6.0]])
    lengths = torch.tensor([[2, 5], [3, 1], [1, 1], [8, 2]])
    seen = preference_accuracy(policy, reference, lengths, ["a", "a", "b", "c"], beta=2.0)
    assert seen.implicit.value == pytest.approx((1 + 1 + 0.5 + 1) / 4)  # log-ratios (1,−1) (0,−1) (0,0) (1,−1)
    assert seen.summed.value == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    assert seen.mean.value == pytest.approx((0 + 0.5 + 0.5 + 1) / 4)  # (−2,−1) (−2,−2) (−3,−3) (−1,−3.5)
    assert seen.longer.value == pytest.approx((0 + 1 + 0.5 + 1) / 4)
    assert seen.margin.value == pytest.approx(2 * (2 + 1 + 0 + 2) / 4)
    assert (seen.reward_winner.value, seen.reward_loser.value) == pytest.approx((2 * 2 / 4, 2 * -3 / 4))
    assert (seen.pairs, seen.questions, seen.implicit.units) == (4, 3, 3)
    assert seen.metrics()["eval/rewards/margins"] == seen.margin.value


def test_half_by_construction_before_training() -> None:
    policy = Unigram(torch.tensor([0.3, 1.0]))
    batch = pairs([[2, 4], [3, 1], [4, 4]], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    seen = judged(policy, policy, batch, ["a", "b", "c"])
    assert (seen.implicit.value, seen.implicit.low, seen.implicit.high) == (0.5, 0.5, 0.5)
    assert (seen.margin.value, seen.reward_winner.value) == (0.0, 0.0)


def test_sides_do_not_matter() -> None:
    policy, reference = Unigram(torch.tensor([0.3, 1.0])), Unigram(torch.tensor([0.0, 0.5]))
    batch = pairs([[2, 4], [3, 1], [4, 3]], [[1.0, 0.0]] * 3)
    flipped = replace(batch, **{k: getattr(batch, k).flip(1) for k in ("responses", "mask", "scores")})
    one, two = (judged(policy, reference, b, [0, 1, 2]) for b in (batch, flipped))
    assert one == two and one.margin.value != 0


def test_refuses_what_is_no_preference() -> None:
    with pytest.raises(DataError, match="1 pairs have no winner"):
        winner_first(pairs([[2, 4], [3, 1]], [[1.0, 0.0], [1.0, 1.0]]))
    with pytest.raises(UserError, match="needs pairs with scores"):
        winner_first(replace(pairs([[2, 4]], [[1.0, 0.0]]), scores=None))


def test_divergences_cover_the_exact_ones_and_name_their_estimator() -> None:
    policy, reference = Unigram(torch.tensor([0.4, 0.0, -0.3])), Unigram(torch.zeros(3))
    p, q = policy.logits.log_softmax(0), reference.logits.log_softmax(0)
    length = 5
    reverse, forward = length * (p.exp() * (p - q)).sum(), length * (q.exp() * (q - p)).sum()
    seen = kl_estimates(policy, reference, policy.draw(400, 4, length, 0), reference.draw(400, 4, length, 1))
    for mean, exact in ((seen.reverse_k1, reverse), (seen.reverse_k3, reverse), (seen.forward_k1, forward)):
        assert mean.value == pytest.approx(float(exact), abs=3 * mean.se)
        assert mean.units == 400 and 0 < mean.se < 0.05
    assert seen.reverse_k3.se < seen.reverse_k1.se  # what k3 is for
    assert "k1 and k3 on samples of π" in seen.estimator and "biased" not in seen.estimator
    assert seen.metrics() == {
        "eval/kl_reverse": seen.reverse_k1.value,
        "eval/kl_reverse_se": seen.reverse_k1.se,
        "eval/kl_forward": seen.forward_k1.value,
        "eval/kl_forward_se": seen.forward_k1.se,
    }


def test_log_probs_that_the_sampler_recorded_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, reference = Unigram(torch.tensor([0.4, 0.0, -0.3])), Unigram(torch.zeros(3))
    own, other = policy.draw(6, 2, 5, 0), reference.draw(6, 2, 5, 1)
    recorded = [replace(b, logp_proximal=w.evaluate(b).logp) for w, b in ((policy, own), (reference, other))]
    expected, asked = kl_estimates(policy, reference, own, other), []
    monkeypatch.setattr(Unigram, "micro_batches", lambda self, b: asked.append(self) or [torch.arange(len(b.mask))])
    seen = kl_estimates(policy, reference, *recorded)
    assert asked == [reference, policy]  # each on the other's responses
    assert seen.metrics() == pytest.approx(expected.metrics())


def test_divergences_by_hand_skip_empty_places_and_warn_of_tempered_samples() -> None:
    policy, reference = Unigram(torch.tensor([1.0, 0.0]), exact_sampler=False), Unigram(torch.zeros(2))
    mask = torch.tensor([[[True, True], [True, False]], [[True, True], [True, True]]])
    batch = Batch(
        [torch.tensor([0])] * 2, torch.zeros_like(mask).long(), mask, valid=torch.tensor([[1, 1], [1, 0]]).bool()
    )
    d = float(torch.tensor([1.0, 0.0]).log_softmax(0)[0] - torch.tensor(0.5).log())  # per token
    seen = kl_estimates(policy, reference, batch, batch)
    assert seen.reverse_k1.value == pytest.approx((2 * d + d + 2 * d) / 3)
    assert seen.forward_k1.value == pytest.approx(-(2 * d + d + 2 * d) / 3)
    assert "biased: the sampler was tempered" in seen.estimator
    summed = torch.where(mask, policy.logits.log_softmax(0)[0], 0.0).sum(-1).double()
    torch.testing.assert_close(sequence_logp(policy, batch), summed)
