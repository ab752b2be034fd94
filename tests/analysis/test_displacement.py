"""Displacement: shifts by kind and moved mass against enumeration, predictions against finite steps on tiny models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

import tiny
from prefloop.analysis import displacement
from prefloop.analysis.divergence import sequence_logp
from prefloop.core.batch import Batch
from prefloop.core.methods import METHODS
from prefloop.policies import packing
from prefloop.policies.categorical import Categorical
from prefloop.policies.causal_lm import CausalLM
from prefloop.policies.sampler import Sampling
from toys import F64, uniform

PROMPTS, ARMS = 6, 5


def table(seed: int = 0, spread: float = 1.5) -> Categorical:
    g = torch.Generator().manual_seed(seed)
    return Categorical(uniform(g, -spread, spread, PROMPTS, 1, ARMS))


def bandit_pairs(seed: int = 1, count: int = PROMPTS) -> Batch:
    """One pair of different arms in every context, the winner first."""
    g = torch.Generator().manual_seed(seed)
    arms = torch.stack([torch.randperm(ARMS, generator=g)[:2] for _ in range(count)])[..., None]
    scores = torch.tensor([1.0, 0.0], dtype=F64).expand(count, 2)
    return Batch(torch.arange(count) % PROMPTS, arms, torch.ones_like(arms, dtype=torch.bool), scores=scores)


def language_model(seed: int = 0) -> CausalLM:
    return CausalLM(tiny.llama(seed=seed), tiny.tokenizer(), sampling=Sampling(max_new_tokens=6))


def text_pairs(count: int = 10, seed: int = 0) -> Batch:
    """Pairs of random words of unequal lengths, some with a common beginning."""
    g = torch.Generator().manual_seed(seed)

    def words(n: int) -> list[int]:
        return torch.randint(3, 12, (n,), generator=g).tolist()

    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    for i in range(count):
        common = words(i % 3)
        for side in sides:
            side.append([*common, *words(1 + int(torch.randint(4, (1,), generator=g))), tiny.EOS])
    return Batch.from_pairs([words(3) for _ in range(count)], *sides)


def with_reference(policy: Any, pairs: Batch) -> tuple[Batch, Tensor]:
    """The pairs with log-probs of a policy that is its own reference, and DPO's coefficients there."""
    with torch.no_grad():
        logp = policy.evaluate(pairs).logp
    known = Batch(pairs.prompts, pairs.responses, pairs.mask, scores=pairs.scores, logp_reference=logp)
    return known, METHODS["dpo"].coefficients(logp, known)


def moved(policy: Any, pairs: Batch, step: list[Tensor], size: float) -> Tensor:
    """Change of log π of every response by a step, which is undone."""
    before, parameters = sequence_logp(policy, pairs), policy.parameters()
    with torch.no_grad():
        for p, d in zip(parameters, step, strict=True):
            p += size * d
        after = sequence_logp(policy, pairs)
        for p, d in zip(parameters, step, strict=True):
            p -= size * d
    return after - before


# ---- measured -------------------------------------------------------------------------------------------------------


def test_shifts_are_means_by_kind_with_errors_over_prompts() -> None:
    before = torch.tensor([-4.0, -6.0, -8.0, -1.0], dtype=F64)
    after = torch.tensor([-5.0, -9.0, -6.0, -1.0], dtype=F64)
    lengths = torch.tensor([1, 3, 2, 1])
    chosen, other = displacement.shifts(before, after, lengths, ["chosen", "chosen", "other", "other"], [0, 1, 0, 1])
    assert (chosen.kind, chosen.change.value, chosen.change.units, chosen.fell) == ("chosen", -2.0, 2, 1.0)
    assert_allclose([chosen.change.se, chosen.per_token.value], [1.0, -1.0])
    assert (other.change.value, other.per_token.value, other.fell) == (1.0, 0.5, 0.0)


def test_sampled_shifts_agree_with_the_exact_ones() -> None:
    """The probe of one kind is drawn from a known law: the mean change over that law is a sum over all arms."""
    old, new = (table(seed).distribution(torch.arange(PROMPTS)).detach() for seed in (0, 1))
    law = torch.softmax(uniform(torch.Generator().manual_seed(2), -1.0, 1.0, PROMPTS, ARMS), -1)
    exact = float((law * (new - old)).sum(-1).mean())
    g = torch.Generator().manual_seed(3)
    arms = torch.multinomial(law, 400, replacement=True, generator=g)
    prompts = torch.arange(PROMPTS)[:, None].expand_as(arms)
    ones = torch.ones(arms.numel(), dtype=torch.long)
    # the contexts are all there are, so every answer is a unit of its own
    (seen,) = displacement.shifts(
        old[prompts, arms].flatten(), new[prompts, arms].flatten(), ones, ["law"] * len(ones), range(len(ones))
    )
    assert abs(seen.change.value - exact) < 4 * seen.change.se


def test_moved_mass_is_exact_and_sums_to_nothing() -> None:
    old, new = (table(seed).distribution(torch.arange(PROMPTS)).detach() for seed in (0, 1))
    kind = torch.tensor([0, 1, 2, 2, 2]).expand(PROMPTS, ARMS)
    gained = displacement.moved_mass(old, new, kind, 3)
    assert_allclose(gained.sum(-1), 0, atol=1e-12)
    assert_allclose(gained[:, 0], (new.exp() - old.exp())[:, 0])
    assert_allclose(gained[:, 2], (new.exp() - old.exp())[:, 2:].sum(-1))


# ---- predicted by gradients ------------------------------------------------------------------------------------------


def test_products_of_a_table_are_the_closed_form() -> None:
    """g_w·g_l = |p|² − p_w − p_l and |g_w|² = |p|² + 1 − 2 p_w for a softmax with free logits."""
    policy, pairs = table(), bandit_pairs()
    known, c = with_reference(policy, pairs)
    found = displacement.score_products(policy, known, c)
    p = policy.distribution(pairs.prompts).exp().detach()
    w, lose = (p.gather(-1, pairs.responses[:, i]).squeeze(-1) for i in (0, 1))
    square = p.square().sum(-1)
    assert_allclose(found.cross, square - w - lose, atol=1e-12)
    assert_allclose(found.winner, square + 1 - 2 * w, atol=1e-12)
    assert_allclose(found.loser, square + 1 - 2 * lose, atol=1e-12)
    assert_allclose(found.up, 0.1 / 2 / PROMPTS)  # β/2 of DPO at the reference, and the mean over pairs
    assert_allclose(found.down, found.up)
    assert_allclose(found.joint_winner, found.own, atol=1e-12)  # each context is trained by its own pair only
    assert_allclose(found.joint_winner - found.joint_loser, found.margin, atol=1e-12)
    assert (found.margin > 0).all()  # eq. 6.2


@pytest.mark.parametrize("make", [table, language_model], ids=["table", "language model"])
@pytest.mark.parametrize("rule", ["gradient", "sign"])
def test_the_prediction_is_the_derivative_of_a_step(make: Any, rule: displacement.Rule) -> None:
    policy = make()
    pairs = bandit_pairs() if isinstance(policy, Categorical) else text_pairs()
    known, c = with_reference(policy, pairs)
    found = displacement.score_products(policy, known, c, rule=rule)
    step = displacement.direction(policy, known, c, rule=rule)
    size = 1e-6
    slope = (moved(policy, pairs, step, size) - moved(policy, pairs, step, -size)) / (2 * size)
    assert_allclose(found.joint_winner, slope[:, 0], rtol=1e-5, atol=1e-6)
    assert_allclose(found.joint_loser, slope[:, 1], rtol=1e-5, atol=1e-6)


def test_predictions_rank_the_pairs_as_a_small_step_moves_them() -> None:
    """The joint prediction orders pairs almost exactly; what a pair does to itself orders them when trained alone."""
    policy, pairs = language_model(), text_pairs(count=24)
    known, c = with_reference(policy, pairs)
    found = displacement.score_products(policy, known, c)
    after = moved(policy, pairs, displacement.direction(policy, known, c), 0.02)[:, 0]
    assert displacement.rank_correlation(found.joint_winner, after, n=50).value > 0.97
    alone = []
    for i in range(len(pairs.mask)):
        rows = torch.tensor([i])
        alone.append(
            float(moved(policy, pairs[rows], displacement.direction(policy, known[rows], c[rows]), 0.02)[0, 0])
        )
    assert displacement.rank_correlation(found.own, alone, n=50).value > 0.97


def test_the_negative_part_is_what_the_switch_removes() -> None:
    policy, pairs = language_model(), text_pairs(count=3)
    known, c = with_reference(policy, pairs)
    whole, up = (displacement.score_products(policy, known, x) for x in (c, c.clamp(min=0)))
    assert_allclose(whole.own - up.own, whole.negative, atol=1e-10)
    assert (up.negative == 0).all()


def test_mean_of_the_prediction_has_an_error_over_prompts() -> None:
    policy, pairs = table(), bandit_pairs(count=12)
    known, c = with_reference(policy, pairs)
    found = displacement.score_products(policy, known, c)
    assert found.mean().units == 12
    assert found.mean(known.prompts.tolist()).units == PROMPTS
    assert found.mean().value == pytest.approx(float(found.joint_winner.mean()))


# ---- the gradient effect ---------------------------------------------------------------------------------------------


def test_gradient_effect_on_samples_agrees_with_the_sum_over_all_responses() -> None:
    policy, final, pairs = table(), table(7), bandit_pairs()
    known, c = with_reference(policy, pairs)
    step = displacement.direction(policy, known, c)
    law = final.distribution(torch.arange(PROMPTS)).exp().detach()
    (exact,) = torch.autograd.grad(-(law * policy.distribution(torch.arange(PROMPTS))).sum(-1).mean(), policy.logits)
    expected = float((-step[0] * exact).sum())
    g = torch.Generator().manual_seed(0)
    arms = torch.multinomial(law, 60, replacement=True, generator=g)[..., None]
    answers = Batch(torch.arange(PROMPTS), arms, torch.ones_like(arms, dtype=torch.bool))
    seen = displacement.gradient_effect(policy, step, answers)
    p = float((step[0] ** 2).sum() * (exact**2).sum()) ** 0.5
    spread = [float(displacement.gradient_effect(policy, step, part).value.value) for part in split(answers, 10)]
    se = float(torch.tensor(spread).std()) / 10**0.5
    assert abs(seen.value.value - expected) < 4 * se
    assert seen.cosine == pytest.approx(expected / p, abs=0.1)
    assert seen.value.units == PROMPTS


def split(batch: Batch, parts: int) -> list[Batch]:
    """The same prompts with a part of the answers each."""
    groups = zip(batch.responses.chunk(parts, 1), batch.mask.chunk(parts, 1), strict=True)
    return [Batch(batch.prompts, responses, mask) for responses, mask in groups]


def test_gradient_effect_predicts_the_likelihood_of_the_responses() -> None:
    policy, pairs = language_model(), text_pairs()
    known, c = with_reference(policy, pairs)
    step, answers = displacement.direction(policy, known, c), text_pairs(seed=5)
    seen, size = displacement.gradient_effect(policy, step, answers), 1e-6
    slope = (moved(policy, answers, step, size) - moved(policy, answers, step, -size)) / (2 * size)
    assert seen.value.value == pytest.approx(float(slope.mean()), rel=1e-5)


# ---- hidden states ---------------------------------------------------------------------------------------------------


def test_ches_by_hand() -> None:
    hidden = torch.zeros(1, 2, 3, 2, dtype=F64)
    hidden[0, 0] = torch.tensor([[1.0, 0.0], [2.0, 1.0], [9.0, 9.0]])
    hidden[0, 1] = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    mask = torch.tensor([[[True, True, False], [True, True, True]]])
    # Σ h_w = (3, 1), Σ h_l = (2, 3): 9 − 10; means (1.5, .5), (2/3, 1): 1.5 − 2.5
    assert displacement.ches(hidden, mask).tolist() == [-1.0]
    assert_allclose(displacement.ches(hidden, mask, normalised=True), [-1.0])


def test_ches_reads_the_states_before_each_response_token() -> None:
    """The last prompt token counts and the last response token does not, against the model's own hidden states."""
    policy, pairs = language_model(), text_pairs(count=3)
    with torch.no_grad():
        hidden = packing.features(policy.network.hidden, pairs)
        found = displacement.ches(hidden, pairs.mask)
        for i in range(3):
            sums = []
            for side in (0, 1):
                answer = pairs.responses[i, side][pairs.mask[i, side]]
                ids = torch.cat([pairs.prompts[i], answer])[None]
                states = policy.model.model(ids).last_hidden_state[0]
                sums.append(states[len(pairs.prompts[i]) - 1 : -1].sum(0))
            assert float(found[i]) == pytest.approx(float(sums[0] @ sums[1] - sums[0] @ sums[0]))


def test_identical_responses_have_the_highest_similarity() -> None:
    hidden = uniform(torch.Generator().manual_seed(0), -1.0, 1.0, 4, 2, 3, 5)
    hidden[:, 1] = hidden[:, 0]
    assert_allclose(displacement.ches(hidden, torch.ones(4, 2, 3, dtype=torch.bool)), 0, atol=1e-12)


def test_rank_correlation_has_an_interval_and_no_value_without_variation() -> None:
    rising = displacement.rank_correlation(range(30), [x**3 for x in range(30)])
    assert (rising.value, rising.low, rising.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))
    assert math.isnan(displacement.rank_correlation([1, 1, 1], [1, 2, 3], n=10).value)
