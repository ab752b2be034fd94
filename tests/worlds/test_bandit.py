"""The didactic problems against printed facts, samples of the reference law, Bradley-Terry, and every group once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.streams import Stream
from prefloop.policies.gpt import GPT
from prefloop.policies.mlp import MLP
from prefloop.policies.stacked import inverse_cdf
from prefloop.worlds.arms import problem as bandit
from prefloop.worlds.arms.problem import ARMS, CONTEXT, ArmReward, Law
from prefloop.worlds.arms.spec import TOKENS
from prefloop.worlds.rewarded import Rewarded, noisy
from toys import F64, unchecked

R1, R2 = bandit.bump(70.0, 10.0), bandit.bump(20.0, 10.0)


def stream(seeds: list[int], name: str = "test") -> Stream:
    return Stream(name, seeds, stacked=True)


def groups(responses: Tensor, scores: Tensor | None = None) -> Batch:
    prompts = torch.arange(responses.shape[1]).expand(responses.shape[:2])
    return Batch(prompts, responses, torch.ones_like(responses, dtype=torch.bool), scores)


def from_the_law(runs: int, n: int, group: int, tokens: int = 1, seed: int = 0) -> Tensor:
    """Responses [S, n, group, tokens] of the reference law, by another sampler than the package's."""
    p = bandit.reference_law().numpy()
    return torch.from_numpy(np.random.default_rng(seed).choice(ARMS, (runs, n, group, tokens), p=p / p.sum()))


# ------------------------------------------------------------------------------------------------ rewards and the law


@pytest.mark.parametrize(
    ("fact", "printed", "digits"),
    [
        (lambda p: p[0], 0.078, 3),
        (lambda p: p[99], 0.042, 3),
        (lambda p: p[15:26].sum(), 0.259, 3),
        (lambda p: p[60:81].sum(), 0.046, 3),
        (lambda p: -(p * p.log()).sum(), 4.12, 2),
        (lambda p: (p * R1).sum(), 0.039, 3),
        (lambda p: (p * R2).sum(), 0.377, 3),
        (lambda p: R1.mean(), 0.177, 3),
    ],
    ids=["bin 0", "bin 99", "bins 15-25", "bins 60-80", "entropy", "far reward", "near reward", "uniform"],
)
def test_the_facts_of_the_study_hold_to_the_printed_digits(fact: object, printed: float, digits: int) -> None:
    assert round(float(fact(bandit.reference_law())), digits) == printed  # type: ignore[operator]


def test_the_law_is_the_histogram_of_tanh_of_a_cauchy_variable() -> None:
    n = 400_000
    x = np.tanh(-0.7 + 0.4 * np.random.default_rng(0).standard_cauchy(n))
    share = np.histogram(x, bins=ARMS, range=(-1, 1))[0] / n
    p = bandit.reference_law().numpy()
    assert abs(p.sum() - 1) < 1e-12
    assert (np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / n)).all()
    inner = scipy.stats.cauchy.cdf(np.arctanh(np.linspace(-0.8, 0.8, 9)), -0.7, 0.4)
    assert np.abs(np.diff([0, *inner, 1]) - bandit.reference_law(10).numpy()).max() < 1e-12


def test_bumps_take_one_centre_and_width_per_run() -> None:
    table = bandit.bump(torch.tensor([70.0, 20.0]), torch.tensor([10.0, 5.0]))
    for run, (centre, width) in enumerate([(70, 10), (20, 5)]):
        want = [math.exp(-(((a - centre) / width) ** 2)) for a in range(ARMS)]
        assert table[run].tolist() == pytest.approx(want, abs=1e-14)


def test_the_best_response_reaches_the_ceiling_and_the_prompt_is_not_rewarded() -> None:
    gold = torch.stack([R1, R2])
    best = gold.argmax(-1)[:, None, None, None].expand(2, 3, 1, TOKENS)
    other = from_the_law(2, 3, 4, TOKENS)
    problem = Rewarded(bandit.prompt_tokens, ArmReward(gold))
    scores = problem.score(groups(torch.cat([best, other], 2))).scores
    assert scores is not None and torch.equal(scores[:, :, 0], torch.ones(2, 3, dtype=F64))
    assert bool((scores[:, :, 1:] < 1).all())
    for run in range(2):  # by hand, token by token
        tokens = other[run, 1, 2].tolist()
        assert float(scores[run, 1, 3]) == pytest.approx(sum(float(gold[run, t]) for t in tokens) / TOKENS, abs=1e-14)


def test_scores_come_from_the_proxy_where_there_is_one_and_given_ones_stay() -> None:
    gold, proxy = ArmReward(R1.expand(1, -1)), ArmReward(-R1.expand(1, -1))
    batch = groups(from_the_law(1, 2, 3))
    plain, learned = (Rewarded(bandit.prompt_tokens, gold, p).score(batch).scores for p in (None, proxy))
    assert plain is not None and learned is not None and torch.equal(plain, -learned)
    given = replace(batch, scores=torch.full((1, 2, 3), 7.0))
    assert Rewarded(bandit.prompt_tokens, gold, proxy).score(given).scores is given.scores


def test_labels_are_plus_or_minus_one_by_each_runs_mean_under_the_reference() -> None:
    """Means 0.5 and 0.1; the mean itself is not above it."""
    table = torch.tensor([[0.2, 0.5, 0.7], [0.1, 0.1, 0.1 + 1e-9]], dtype=F64)
    batch = groups(torch.arange(3).view(1, 1, 3, 1).expand(2, 1, 3, 1))
    typical = bandit.under(torch.tensor([0.0, 1.0, 0.0], dtype=F64))
    found = Rewarded(bandit.prompt_tokens, ArmReward(table), typical=typical).score(batch)
    assert found.labels is not None and found.labels.dtype == F64 and found.scores is not None
    assert found.labels.flatten(1).tolist() == [[-1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]]
    assert torch.equal(found.scores.flatten(1), table)  # the scores stay what they are
    assert Rewarded(bandit.prompt_tokens, ArmReward(table)).score(batch).labels is None


# ----------------------------------------------------------------------------------------------------------- prompts


def test_prompts_are_uniform_and_each_runs_own() -> None:
    contexts = bandit.fresh(F64)(0, 50, stream([0, 1]))
    assert contexts.shape == (2, 50, CONTEXT) and contexts.dtype == F64
    assert float(contexts.min()) >= 0 and float(contexts.max()) < 1
    assert (contexts.mean((1, 2)) - 0.5).abs().max() < 4 / math.sqrt(12 * 50 * CONTEXT)
    assert not torch.equal(contexts[0], contexts[1])
    assert torch.equal(contexts[1:], bandit.fresh(F64)(0, 50, stream([1])))
    n = 50_000
    share = torch.bincount(bandit.prompt_tokens(0, n, stream([3]))[0], minlength=ARMS) / n
    assert (share - 0.01).abs().max() < 4.5 * math.sqrt(0.01 * 0.99 / n)


def test_a_list_of_contexts_goes_round() -> None:
    fixed = stream([0, 1]).rand(3, CONTEXT)
    drawn = bandit.listed(fixed)(4, 5, stream([0, 1]))
    assert all(torch.equal(drawn[:, k], fixed[:, (4 + k) % 3]) for k in range(5))
    assert bandit.indexed(2, 3)(4, 5, stream([0, 1])).tolist() == [[1, 2, 0, 1, 2]] * 2


# --------------------------------------------------------------------------------------------------------- reference


def distance(policy: MLP | GPT, tokens: int, seeds: list[int]) -> Tensor:
    """Total variation from the law of every next-token distribution on new prompts, [S, P, T]."""
    rng = stream(seeds, "unseen")
    prompts = (bandit.prompt_tokens if tokens > 1 else bandit.fresh(F64))(0, 40, rng)
    with torch.no_grad():
        p = policy.next_logp(prompts, from_the_law(len(seeds), 40, 1, tokens)).exp().squeeze(2)
    return (p - bandit.reference_law()).abs().sum(-1) / 2


@pytest.mark.parametrize("objective", ["likelihood", "reverse"])
def test_the_fitted_mlp_has_the_law_in_every_context(objective: str) -> None:
    policy = MLP.create([2], dtype=F64)
    assert distance(policy, 1, [2]).min() > 0.2
    with unchecked():
        bandit.fit(policy, bandit.fresh(F64), 1, objective, [2])
    assert distance(policy, 1, [2]).max() < 0.01


@pytest.mark.parametrize("objective", ["likelihood", "reverse"])
def test_the_fitted_gpt_has_the_law_after_every_prefix(objective: str) -> None:
    policy = GPT.create([2], dtype=F64)
    with unchecked():
        bandit.fit(policy, bandit.prompt_tokens, TOKENS, objective, [2])
    assert distance(policy, TOKENS, [2]).max() < 0.05


@pytest.mark.parametrize("kind", [MLP, GPT])
def test_the_fit_of_a_stack_is_each_runs_own(kind: type[MLP | GPT]) -> None:
    """20 steps of Adam in float64, in which only the order of sums differs: to 1e-8."""
    draw, tokens = (bandit.prompt_tokens, 3) if kind is GPT else (bandit.fresh(F64), 1)
    options = {"tokens": 3, "layers": 1} if kind is GPT else {"hidden": (20, 20)}
    stacked = kind.create([4, 7], dtype=F64, **options)  # type: ignore[arg-type]
    bandit.fit(stacked, draw, tokens, "likelihood", [4, 7], steps=20)
    for run, seed in enumerate([4, 7]):
        alone = kind.create([seed], dtype=F64, **options)  # type: ignore[arg-type]
        before = [p.detach().clone() for p in alone.parameters()]
        bandit.fit(alone, draw, tokens, "likelihood", [seed], steps=20)
        assert max(float((a - b).abs().max().detach()) for a, b in zip(alone.parameters(), before, strict=True)) > 0.1
        for a, b in zip(stacked.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(a[run], b[0], atol=1e-8, rtol=0)


def test_the_table_holds_the_law_in_every_context() -> None:
    policy = bandit.tabular_reference(2, 3, F64)
    p = policy.distribution(torch.arange(3).expand(2, 3)).exp()
    assert p.shape == (2, 3, ARMS) and (p - bandit.reference_law()).abs().max() < 1e-14


# ------------------------------------------------------------------------------------------------------ offline data


def numbered(n: int, runs: int = 2) -> Rewarded:
    """Offline groups of two; the tokens, scores and prompt of group k all say k."""
    k = torch.arange(n)
    batch = groups(k[None, :, None, None].expand(runs, n, 2, 1), k[None, :, None].expand(runs, n, 2).double())
    return Rewarded(bandit.indexed(runs, n), ArmReward(torch.zeros(runs, ARMS, dtype=F64)), data=batch)


def test_every_epoch_has_each_group_once_in_an_order_of_its_own() -> None:
    problem, rng, n = numbered(7), stream([5, 6], "prompts"), 7
    parts, start = [], 0
    for count in (5, 5, 1, 6, 4, 7):  # 28 = 4 epochs; most portions lie across a border
        batch = problem.dataset(start, count, 2, rng)
        told = batch.responses[:, :, 0, 0]
        assert batch.scores is not None and torch.equal(batch.scores[:, :, 1], told.double())
        assert torch.equal(batch.prompts, told)
        parts.append(told)
        start += count
    order = torch.cat(parts, 1)
    epochs = order.view(2, 4, n)
    assert torch.equal(epochs.sort(-1).values, torch.arange(n).expand(2, 4, n))
    assert len({tuple(row) for row in epochs.flatten(0, 1).tolist()}) == 8  # runs and epochs all differ
    assert torch.equal(problem.dataset(3, 20, 2, stream([5, 6], "prompts")).responses[:, :, 0, 0], order[:, 3:23])
    assert torch.equal(numbered(7, 1).dataset(0, 28, 2, stream([6], "prompts")).responses[:, :, 0, 0], order[1:])


def test_groups_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="no offline groups of 3"):
        numbered(4).dataset(0, 2, 3, stream([0, 1]))
    with pytest.raises(ValueError, match="no offline groups of 2"):
        replace(numbered(4), data=None).dataset(0, 2, 2, stream([0, 1]))


def test_the_skewed_law_replaces_its_share_by_its_bump() -> None:
    """The reference's responses are all arm 99, which the bumps practically never write."""
    coverage, centre, width = torch.tensor([[0.0, 0.5, 1.0], [70.0, 20.0, 20.0], [5.0, 3.0, 5.0]], dtype=F64)
    n, group, tokens = 1500, 4, 2
    before = groups(torch.full((3, n, group, tokens), 99))
    after = bandit.skewed(before, Law(coverage, centre, width), stream([1, 2, 3])).responses
    kept = after == 99
    assert torch.equal(kept[..., 0], kept[..., 1])  # whole responses
    share = kept[..., 0].double().mean((1, 2)).tolist()
    assert share[0] == 0 and share[2] == 1
    assert abs(share[1] - 0.5) < 4 * math.sqrt(0.25 / (n * group))
    for run in (0, 1):
        seen = after[run][~kept[run]]
        law = np.exp(-(((np.arange(ARMS) - float(centre[run])) / float(width[run])) ** 2))
        law, count = law / law.sum(), np.bincount(seen.numpy(), minlength=ARMS)
        often = law * len(seen) >= 5
        slack = 4 * np.sqrt(law * (1 - law) / len(seen))
        assert often.sum() > 10 and (np.abs(count / len(seen) - law) < slack)[often].all()
        rare = law[~often].sum()
        assert abs(count[~often].sum() / len(seen) - rare) < 4 * math.sqrt(rare / len(seen)) + 1 / len(seen)


def test_noisy_scores_compare_as_bradley_terry() -> None:
    r, temperature, n = torch.tensor([0.0, 0.05, 0.2], dtype=F64), torch.tensor([0.1, 0.5], dtype=F64), 20_000
    scores = noisy(r.expand(2, n, 3), temperature, stream([0, 1]))
    for run, t in enumerate(temperature.tolist()):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            won = float((scores[run, :, i] > scores[run, :, j]).double().mean())
            want = 1 / (1 + math.exp(-(float(r[i]) - float(r[j])) / t))
            assert abs(won - want) < 4 * math.sqrt(want * (1 - want) / n)


def test_the_learned_reward_orders_the_arms_that_it_has_seen() -> None:
    """Gold labels: rank correlation above 0.9 over arms in at least 20 responses."""
    data = from_the_law(2, 300, 10)
    gold = torch.stack([R1, R2])
    batch = groups(data, bandit.mean_reward(gold, data))
    found = bandit.learned_reward(batch, [0, 1])
    assert found.shape == (2, ARMS) and found.dtype == F64
    for run in range(2):
        seen = torch.bincount(data[run].flatten(), minlength=ARMS)
        often = (seen >= 20).numpy()
        assert often.sum() >= 30
        assert scipy.stats.spearmanr(found[run].numpy()[often], gold[run].numpy()[often]).statistic > 0.9
        assert bool((found[run][seen == 0] == 0).all())
    assert batch.scores is not None
    other_scale = replace(batch, scores=batch.scores.log())  # only who wins counts
    assert torch.equal(bandit.learned_reward(other_scale, [0, 1]), found)


@pytest.mark.parametrize("tokens", [1, 3])
def test_the_learned_reward_predicts_noisy_choices_nearly_as_well_as_gold_does(tokens: int) -> None:
    """Left-out pairs, labelled by the same noise: at most 0.04 below what gold itself would get."""
    gold, t = R2.expand(1, -1), torch.tensor([0.1], dtype=F64)
    data, fresh = from_the_law(1, 300, 10, tokens), from_the_law(1, 4000, 2, tokens, seed=1)
    scores = noisy(bandit.mean_reward(gold, data), t, stream([0]))
    table = bandit.learned_reward(groups(data, scores), [0])
    truth, told = bandit.mean_reward(gold, fresh), bandit.mean_reward(table, fresh)
    label = noisy(truth, t, stream([9])).diff(dim=-1).sign()
    different = truth.diff(dim=-1) != 0
    best, own = (float((x.diff(dim=-1).sign() == label)[different].double().mean()) for x in (truth, told))
    assert best > 0.65 and own > best - 0.04


def test_a_response_without_a_partner_is_left_out_of_the_learned_reward() -> None:
    data = from_the_law(1, 60, 3)
    batch = groups(data, bandit.mean_reward(R2.expand(1, -1), data))
    assert batch.scores is not None
    even = replace(batch, responses=data[:, :, :2], mask=batch.mask[:, :, :2], scores=batch.scores[:, :, :2])
    assert torch.equal(bandit.learned_reward(batch, [0]), bandit.learned_reward(even, [0]))


def test_the_inverse_cdf_sampler_has_the_same_law_as_the_other_one() -> None:
    """Kolmogorov-Smirnov between both samplers, 40,000 draws each: below its 1 in 10,000 limit."""
    n = 40_000
    own = inverse_cdf(bandit.reference_law().log()[None], stream([0]).rand(n, dtype=F64))[0]
    other = from_the_law(1, n, 1)[0, :, 0, 0]
    gap = (torch.bincount(own, minlength=ARMS) - torch.bincount(other, minlength=ARMS)).cumsum(0).abs().max() / n
    assert float(gap) < math.sqrt(-math.log(1e-4 / 2) / 2) * math.sqrt(2 / n)
