"""The published defects do what they say and nothing else, and the study of them runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.methods import METHODS, Method
from prefloop.core.objectives import sequence
from prefloop.core.streams import Stream
from prefloop.lab.setting import changed, make
from prefloop.lab.stack import build, run_stack
from prefloop.policies.gpt import GPT
from prefloop.worlds.arms.defects import DEFECTS, install, seen_as
from prefloop.worlds.arms.problem import ArmReward, prompt_tokens, under
from prefloop.worlds.arms.spec import REWARDS, Sequences
from prefloop.worlds.rewarded import Rewarded
from prefloop.worlds.spec import Built, hints
from toys import unchecked

F64 = torch.float64
SEEDS = (3, 4)
V, T = 6, 3
PPO = METHODS["ppo_critic_free"].override(kl=0.3, scale="none", clip=0.1)


def tiny(spread: float = 0.5) -> GPT:
    """Two small networks whose next-token distributions depend on all that came before."""
    policy = GPT.create(SEEDS, vocabulary=V, tokens=T, layers=1, heads=2, width=8, dtype=F64)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(spread * torch.randn(p.shape, generator=g, dtype=F64))
    return policy


def parts(row: Method = PPO, problem: Any = None) -> Built:
    policy = tiny()
    reference = tiny(0.4).reference()
    return Built(row, policy, reference, problem, lambda policy, reference, rng: {})


def drawn(policy: GPT, *, prompts: int = 4, group: int = 3, name: str = "sampling") -> Batch:
    rng = Stream(name, SEEDS, stacked=True)
    x = (rng.rand(prompts) * V).long()
    with torch.no_grad():
        return policy.draw(x, group, rng)


def logp_reference(found: Built, batch: Batch) -> Tensor:
    with torch.no_grad():
        return found.reference.evaluate(batch).logp  # type: ignore[no-any-return]


def gradient(loss: Tensor, policy: GPT) -> list[Tensor]:
    grads = torch.autograd.grad(loss.sum(), policy.parameters(), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, policy.parameters(), strict=True)]


def assert_close(got: list[Tensor], want: list[Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


# ------------------------------------------------------------------------------------------------------ all of them


def test_every_choice_of_a_setting_is_a_defect() -> None:
    assert set(DEFECTS) | {""} == set(get_args(hints(Sequences)["defect"][0]))


def test_unknown_defects_are_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"(?s)unknown defect `off_by_on`.*`off_by_one`"):
        install("off_by_on", parts(), SEEDS)


@pytest.mark.parametrize("defect", DEFECTS)
def test_what_the_lab_follows_stays_true(defect: str) -> None:
    """Weights are shared with the policy that the optimiser holds; sampling and next-token distributions are right."""
    before = parts(problem=Rewarded(prompt_tokens, ArmReward(torch.ones(2, V, dtype=F64))))
    after = install(defect, before, SEEDS)
    assert [p.data_ptr() for p in after.policy.parameters()] == [p.data_ptr() for p in before.policy.parameters()]
    batch = drawn(before.policy)
    assert torch.equal(drawn(after.policy).responses, batch.responses)
    assert torch.equal(after.problem.gold.table, before.problem.gold.table)
    for a, b in ((after.policy, before.policy), (after.reference, before.reference)):
        assert torch.equal(a.next_logp(batch.prompts, batch.responses), b.next_logp(batch.prompts, batch.responses))
    assert not any(p.requires_grad for p in after.reference.parameters())


@pytest.mark.parametrize("defect", DEFECTS)
def test_stacked_equals_alone(defect: str) -> None:
    row = "online_dpo" if defect == "reference_dropout" else "ppo_critic_free"
    one = make(
        row,
        "sequences",
        {} if row == "online_dpo" else {"reuse": 2, "kl": 0.1},
        responses=4,
        batch=8,
        minibatch=8,
        steps=3,
        evaluate=3,
        evaluation=2,
        precision="float64",
        defect=defect,
    )
    with unchecked():
        both = run_stack([replace(one, seed=s, lr=lr) for s, lr in ((0, 1e-3), (1, 1e-2))])
        alone = run_stack([replace(one, seed=1, lr=1e-2)])[0]
        clean = run_stack([changed(one, seed=1, lr=1e-2, defect="")])[0]
    for column in ("eval/gold", "eval/kl_reverse_exact", "loss", "grad_norm"):
        np.testing.assert_allclose(both[1].curves[column], alone.curves[column], atol=1e-8)
    assert not np.allclose(alone.curves["grad_norm"], clean.curves["grad_norm"], equal_nan=True, atol=1e-9)


# ------------------------------------------------------------------------------------------------------- off by one


def off_by_one(row: Method = PPO) -> tuple[Built, Batch, Tensor]:
    """The defective parts, a scored collection, and log π(v) at every place of x, y_1 … y_T: [S, P, G, T + 1, V].

    Place t has read x, y_1 … y_t: its distribution is that of y_{t+1}.
    """
    gold = ArmReward(torch.rand(2, V, generator=torch.Generator().manual_seed(1), dtype=F64))
    found = install("off_by_one", parts(row, Rewarded(prompt_tokens, gold)), SEEDS)
    batch = drawn(found.policy)
    tokens = torch.cat([batch.prompts[..., None, None].expand(2, 4, 3, 1), batch.responses], -1)
    plain = tiny()
    states = plain.hidden(tokens.flatten(1, 2))
    torch.testing.assert_close(found.policy.hidden(tokens.flatten(1, 2)), states)
    return found, batch, plain.logits(states).log_softmax(-1).view(2, 4, 3, T + 1, V).detach()


def test_off_by_one_scores_all_places_with_their_own_distributions() -> None:
    """The prompt with the distribution that y_1 is sampled from, y_t with that of what follows it."""
    found, plain, law = off_by_one()
    batch = found.problem.score(plain)
    seen = found.policy.evaluate(batch, entropy=True, values=True)
    tokens = [plain.prompts[..., None].expand(2, 4, 3), *plain.responses.unbind(-1)]
    assert seen.logp.shape == (2, 4, 3, T + 1) and batch.mask.all()
    for t, token in enumerate(tokens):
        assert torch.equal(batch.responses[..., t], token)
        torch.testing.assert_close(seen.logp[..., t], law[..., t, :].gather(-1, token[..., None])[..., 0])
    torch.testing.assert_close(seen.entropy, -(law.exp() * law).sum(-1))
    right = tiny().evaluate(plain).logp
    for t in range(T):
        torch.testing.assert_close(right[..., t], law[..., t, :].gather(-1, tokens[t + 1][..., None])[..., 0])
    value = tiny().weights["value.weight"][:, None, None], tiny().weights["value.bias"][:, None, None]
    states = tiny().hidden(batch.responses.flatten(1, 2)).view(2, 4, 3, T + 1, -1)
    torch.testing.assert_close(seen.values, (states @ value[0]).squeeze(-1) + value[1])


def test_off_by_one_rewards_neither_the_prompt_nor_its_place() -> None:
    found, plain, _ = off_by_one()
    want = found.problem.gold.table.gather(-1, plain.responses.flatten(1)).view(plain.responses.shape).mean(-1)
    torch.testing.assert_close(found.problem.score(plain).scores, want)
    known = replace(plain, scores=want, logp_behaviour=None, logp_proximal=None)  # of a dataset
    kept = found.problem.score(known)
    assert kept.scores is want and kept.logp_proximal is None and torch.equal(kept.responses[..., 1:], plain.responses)


def test_off_by_one_is_in_policy_reference_and_the_ratios_denominator() -> None:
    found, plain, _ = off_by_one()
    batch = found.problem.score(plain)
    seen = found.policy.evaluate(batch).logp.detach()
    assert torch.equal(batch.logp_proximal, seen) and torch.equal(batch.logp_behaviour, seen)  # type: ignore[arg-type]
    late = seen_as(type(found.policy), parts().reference).evaluate(batch).logp
    assert torch.equal(logp_reference(found, batch), late)


def test_off_by_one_of_whole_responses_sums_the_prompts_place() -> None:
    """The published loss of best-of-N: −(1/prompts) Σ_x Σ_{t=0}^{T} log p_t(s_t), s = x, y_1 … y_T the best."""
    found, plain, law = off_by_one(METHODS["best_of_n"])
    batch = found.problem.score(plain)
    got = found.method.loss(found.policy.evaluate(batch).logp, batch).detach()
    assert batch.scores is not None
    for run in range(2):
        total = 0.0
        for p in range(4):
            scores = batch.scores[run, p].tolist()
            best = [i for i in range(3) if scores[i] == max(scores)]  # permutations of one response tie
            for i in best:
                tokens = [int(plain.prompts[run, p]), *plain.responses[run, p, i].tolist()]
                total -= sum(float(law[run, p, i, t, token]) for t, token in enumerate(tokens)) / len(best) / 4
        assert float(got[run]) == pytest.approx(total, rel=1e-12)


def test_off_by_one_gives_ppo_a_ratio_of_its_own_for_the_prompts_place() -> None:
    """The published loss: (1/responses) Σ_y Σ_{t=0}^{T} max(−A ρ_t, −A clip(ρ_t)), each place clipped by itself."""
    found, plain, _ = off_by_one(METHODS["ppo_critic_free"].override(clip=0.1))
    batch = found.problem.score(plain)
    logp = found.policy.evaluate(batch).logp.detach()
    shift = torch.zeros_like(logp)
    shift[..., 0] = torch.where(
        torch.arange(3) == 1, 0.3, -0.02
    )  # one prompt's ratio beyond the clip, places 1 … within
    a = found.method.signal(batch).weight
    assert a is not None
    rho = shift.exp()
    want = torch.maximum(-a[..., None] * rho, -a[..., None] * rho.clamp(0.9, 1.1)).sum((-3, -2, -1)) / 12
    torch.testing.assert_close(found.method.loss(logp + shift, batch), want)
    c = found.method.coefficients(logp + shift, batch)
    cut = (a[:, :, 1] > 0)[..., None] & (torch.arange(T + 1) == 0)
    assert torch.equal(c[:, :, 1] == 0, cut) and bool(cut.any())


def test_off_by_one_comparisons_do_not_see_the_prompts_place() -> None:
    """Two responses to one prompt share place 0, so a margin has no gradient there."""
    found, plain, _ = off_by_one(METHODS["ipo"].override(responses=3, tau=0.3))
    batch = found.problem.score(plain)
    batch = replace(batch, logp_reference=logp_reference(found, batch))
    logp = found.policy.evaluate(batch).logp
    assert torch.equal(logp[:, :, 0, 0], logp[:, :, 1, 0])
    (grad,) = torch.autograd.grad(found.method.loss(logp, batch).sum(), logp)
    assert torch.allclose(grad[..., 0].sum(-1), torch.zeros(2, 4, dtype=F64), atol=1e-15)


@pytest.mark.slow
def test_the_prompts_place_makes_best_of_n_rise_and_fall_under_reuse() -> None:
    """The published setting with T = 10 passes: without the defect the reward goes to 1; with it, up and down again."""
    one = make(
        "best_of_n",
        "sequences",
        {"reuse": 10},
        responses=10,
        batch=100,
        minibatch=100,
        centre=REWARDS["far"],
        lr=3e-4,
        max_grad_norm=1e6,
        steps=400,
        evaluate=40,
        evaluation=16,
    )
    with unchecked():
        clean, late = (run_stack([changed(one, seed=s, defect=d) for s in range(3)]) for d in ("", "off_by_one"))
    assert min(run.last("eval/gold") for run in clean) > 0.95
    peak = np.array([run.curves["eval/gold"].max() for run in late])
    end = np.array([run.last("eval/gold") for run in late])
    assert peak.max() < 0.8 and end.max() < 0.65 and (peak - end).mean() > 0.1


# --------------------------------------------------------------------------------------------------------- k1 loss


def settled(found: Built, batch: Batch) -> Batch:
    scores = torch.linspace(0, 1, batch.present.numel(), dtype=F64).view(batch.present.shape)
    return replace(batch, scores=scores, logp_reference=logp_reference(found, batch))


@pytest.mark.parametrize("beta", [0.3, torch.tensor([0.3, 0.7], dtype=F64)])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_gradient_of_the_k1_term_is_that_of_log_pi(beta: float | Tensor, level: str) -> None:
    """β ∇log π of the samples, whatever the reference; without it, the row with no KL."""
    row = PPO.override(kl=beta, level=level)
    found = install("k1_loss", parts(row), SEEDS)
    batch = settled(found, drawn(found.policy))
    assert found.method.kl == 0 and found.method.needs == {"scores", "behaviour", "reference"}
    logp = found.policy.evaluate(batch).logp
    with_term = gradient(found.method.loss(logp, batch), found.policy)
    logp = found.policy.evaluate(batch).logp
    without = gradient(row.override(kl=0.0).loss(logp, batch), found.policy)
    logp = found.policy.evaluate(batch).logp
    term = gradient(torch.as_tensor(beta, dtype=F64) * sequence(logp, batch).mean((-2, -1)), found.policy)
    assert_close(with_term, [a + b for a, b in zip(without, term, strict=True)])
    other = replace(batch, logp_reference=batch.logp_reference - 1.7)  # type: ignore[operator]
    logp = found.policy.evaluate(batch).logp
    assert_close(gradient(found.method.loss(logp, other), found.policy), with_term)


def test_expected_gradient_of_the_k1_term_is_zero_where_that_of_the_penalty_is_not() -> None:
    """All V² responses of two tokens, weighted by their probability: E[∇log π] = 0, and ∇KL is not."""
    policy = GPT.create([0], vocabulary=4, tokens=2, layers=1, heads=1, width=4, dtype=F64)
    with torch.no_grad():
        for i, p in enumerate(policy.parameters()):
            p.add_(torch.linspace(-1, 1, p.numel(), dtype=F64).view_as(p) * (1 + i % 3) / 2)
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4)).view(1, 1, 16, 2)
    batch = Batch(torch.tensor([[2]]), every, torch.ones_like(every, dtype=torch.bool))
    logp = sequence(policy.evaluate(batch).logp, batch)
    p, ref = logp.exp().detach(), torch.full_like(logp, -math.log(16)).detach()
    k1 = gradient(p * (logp - ref), policy)
    exact = gradient(logp.exp() * (logp - ref), policy)
    inside = gradient(p * (logp - ref).detach() * logp, policy)  # −A ∇log π with A = −(log π − log π_ref)
    assert max(float(g.abs().max()) for g in k1) < 1e-12
    assert_close(inside, exact)
    assert max(float(g.abs().max()) for g in exact) > 0.01


def test_kl_inside_the_reward_is_something_else() -> None:
    before = parts()
    found = install("k1_loss", before, SEEDS)
    batch = settled(found, drawn(found.policy))
    penalty = -0.3 * (batch.logp_proximal - batch.logp_reference)  # type: ignore[operator]
    inside = replace(batch, penalty=penalty)
    signal = before.method.signal(inside)
    total = before.method.denominator(inside, signal)
    logp = before.policy.evaluate(inside).logp
    loss = before.method.loss(logp, inside, signal) + before.method.penalty_loss(logp, inside, signal, total)
    right = gradient(loss, before.policy)
    wrong = gradient(found.method.loss(found.policy.evaluate(batch).logp, batch), found.policy)
    gap = sum(float(((a - b) ** 2).sum()) for a, b in zip(right, wrong, strict=True))
    assert gap > 0.01 * sum(float((a**2).sum()) for a in right)


def test_hyper_parameters_of_the_wrapped_row_are_found_by_name() -> None:
    row = install("k1_loss", parts(), SEEDS).method
    assert row.defaults["clip"] == 0.1 and row.override(clip=0.4).defaults["clip"] == 0.4
    with pytest.raises(UserError, match="no `clp`"):
        row.override(clp=0.1)


def test_defects_that_could_do_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="needs kl above 0"):
        install("k1_loss", parts(PPO.override(kl=0.0)), SEEDS)
    with pytest.raises(UserError, match="policy gradient"):
        install("k1_loss", parts(METHODS["online_dpo"].override(kl=0.1, kl_in="loss")), SEEDS)
    with pytest.raises(UserError, match="reads no reference"):
        install("reference_dropout", parts(METHODS["best_of_n"]), SEEDS)


# ----------------------------------------------------------------------------------------------------------- dropout


def test_repeated_reference_calls_differ_and_repeat_with_the_seed() -> None:
    batch = drawn(tiny())
    calls = []
    for _ in range(2):
        found = install("reference_dropout", parts(), SEEDS)
        calls.append([logp_reference(found, batch) for _ in range(2)])
    (a, b), (c, d) = calls
    assert torch.equal(a, c) and torch.equal(b, d) and not torch.allclose(a, b, atol=1e-3)
    assert not torch.allclose(a[0], logp_reference(parts(), batch)[0], atol=1e-3)
    policy = install("reference_dropout", parts(), SEEDS).policy
    assert torch.equal(policy.evaluate(batch).logp, tiny().evaluate(batch).logp)


def test_dropped_activations_have_the_mean_of_the_clean_ones() -> None:
    """1 − p of them are kept, scaled by 1/(1 − p): of ones the mean is 1 and the variance p/(1 − p)."""
    reference = install("reference_dropout", parts(), SEEDS).reference
    out = reference._dropped(torch.ones(2, 50_000, dtype=F64))
    assert set(out.unique().tolist()) == {0.0, 1 / 0.9}
    se = math.sqrt(0.1 / 0.9 / 50_000)
    assert (out.mean(-1) - 1).abs().max() < 4 * se
    assert not torch.equal(out[0], out[1])


def test_noisy_log_probs_lie_around_the_clean_ones_of_a_network_that_is_nearly_linear() -> None:
    """Small weights: the mean over many calls is the clean log-prob within its standard error, second order aside."""
    found = parts()
    quiet = GPT.create(SEEDS, vocabulary=V, tokens=T, layers=1, heads=2, width=8, dtype=F64).reference()
    with torch.no_grad():
        quiet.weights["head.weight"].mul_(5)
    found = install("reference_dropout", replace(found, reference=quiet), SEEDS)
    batch = drawn(tiny(), prompts=2)
    with unchecked():
        calls = torch.stack([sequence(logp_reference(found, batch), batch) for _ in range(400)])
    clean = sequence(quiet.evaluate(batch).logp, batch)
    spread = calls.std(0)
    assert spread.min() > 0.01
    assert ((calls.mean(0) - clean).abs() < 0.5 * spread).all()


# ------------------------------------------------------------------------------------------------- prompt in reward


def test_the_prompt_counts_as_one_token_of_ten() -> None:
    gold = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.25]], dtype=F64)
    reward, prompts = ArmReward(gold), torch.tensor([[0, 1], [2, 0]])
    responses = torch.tensor([[[[1, 1, 2]], [[0, 0, 0]]], [[[1, 2, 2]], [[0, 0, 0]]]])
    batch = Batch(prompts, responses, torch.ones_like(responses, dtype=torch.bool))
    want = torch.tensor([[[(0 + 1 + 1 + 0.5) / 4], [(1 + 0) / 4]], [[(0.25 + 0 + 0.25 + 0.25) / 4], [(1 + 3) / 4]]])
    data = replace(batch, scores=Rewarded(prompt_tokens, reward).score(batch).scores)
    found = install("prompt_in_reward", parts(problem=Rewarded(prompt_tokens, reward, data=data)), SEEDS).problem
    torch.testing.assert_close(found.score(batch).scores, want.double())
    torch.testing.assert_close(found.data.scores, want.double())
    assert found.score(data) is data  # what has scores keeps them
    told = install(
        "prompt_in_reward", parts(problem=Rewarded(prompt_tokens, reward, ArmReward(1 - gold))), SEEDS
    ).problem
    torch.testing.assert_close(told.score(batch).scores, 1 - want.double())
    law = torch.tensor([0.1, 0.1, 0.8], dtype=F64)  # mean rewards of 0.5 and 0.3
    found = install(
        "prompt_in_reward", parts(problem=Rewarded(prompt_tokens, reward, data=data, typical=under(law))), SEEDS
    ).problem
    assert found.score(batch).labels.flatten().tolist() == [1.0, -1.0, -1.0, 1.0]
    assert found.data.labels.flatten().tolist() == [1.0, -1.0, -1.0, 1.0]


def test_comparisons_inside_a_group_do_not_see_the_prompt() -> None:
    one = make("best_of_n", "sequences", responses=4, batch=8, minibatch=8, evaluation=2, precision="float64")
    worlds = [build([changed(one, defect=d)]) for d in ("", "prompt_in_reward")]
    signals = []
    for world in worlds:
        world.loop.collect(0)
        signals.append(world.loop.signal)
    assert torch.equal(signals[0].weight, signals[1].weight)
    assert not torch.equal(worlds[0].loop.collection.scores, worlds[1].loop.collection.scores)  # type: ignore[union-attr,arg-type]
