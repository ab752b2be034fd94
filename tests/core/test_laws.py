"""Laws that tie the methods to each other and to theory, by exact enumeration in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor

from prefloop.core import kl, objectives
from prefloop.core.batch import Batch, Signal
from prefloop.core.loop import Plan
from prefloop.core.methods import METHODS, Method
from prefloop.core.pairs import Pairs, all_pairs
from prefloop.core.protocols import no_op
from prefloop.core.streams import Stream
from prefloop.policies.categorical import Categorical
from toys import F64, Arms, fixed, group_size, make_batch, make_logp, make_loop, tabular


def on_policy(seed: int = 0, **sizes: int) -> tuple[Batch, Tensor]:
    """A batch and the log-probs it was collected at: every ratio is 1."""
    batch = make_batch(seed, **sizes)
    assert batch.logp_proximal is not None
    return batch, batch.logp_proximal.clone()


def test_at_ratio_one_clipped_is_policy_gradient_is_the_score_function() -> None:
    batch, logp = on_policy()
    advantage = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    signal = Signal(weight=advantage)
    want = torch.where(batch.mask, advantage[..., None], 0.0) / 12  # 3 prompts × 4 responses
    for row in (Method(objectives.clipped), Method(objectives.policy_gradient)):
        assert torch.allclose(row.coefficients(logp, batch, signal), want, atol=1e-15)


@pytest.mark.parametrize("normalise", ["prompt", "batch"])
def test_rwr_becomes_best_of_n_and_sft_at_the_ends_of_beta(normalise: str) -> None:
    prompts = 3 if normalise == "prompt" else 1  # over a batch, best-of-N means the best of all
    batch = make_batch(4, prompts=prompts)
    logp, rwr = make_logp(batch, 4), METHODS["rwr"].override(normalise=normalise)
    best, sft = METHODS["best_of_n"], METHODS["sft"]
    # the group size is the sum of weights inside a group, so both divide to the same mean
    assert torch.allclose(rwr.override(beta=1e-6).coefficients(logp, batch), best.coefficients(logp, batch))
    assert torch.allclose(rwr.override(beta=1e9).coefficients(logp, batch), sft.coefficients(logp, batch), atol=1e-9)


def test_rloo_by_definition() -> None:
    batch, logp = on_policy(3)
    assert batch.scores is not None
    got = METHODS["rloo"].coefficients(logp, batch)
    for p in range(3):
        for i in range(4):
            others = [float(batch.scores[p, j]) for j in range(4) if j != i]
            want = (float(batch.scores[p, i]) - sum(others) / 3) / 12
            assert got[p, i][batch.mask[p, i]].tolist() == pytest.approx([want] * int(batch.lengths[p, i]))


@pytest.mark.parametrize("size", [2, 4, 7])
def test_grpo_without_std_and_clip_is_rloo_times_g_minus_one_over_g(size: int) -> None:
    batch = make_batch(5, responses=size)
    logp = make_logp(batch, 5, spread=0.2)
    grpo = METHODS["grpo_no_std"].override(clip=1e9, reduction="sequence")
    rloo = METHODS["rloo"].coefficients(logp, batch)
    assert torch.allclose(grpo.coefficients(logp, batch), rloo * (size - 1) / size, atol=1e-14)


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_ipo_is_stationary_at_its_target_margin(tau: float) -> None:
    batch = make_batch(6, responses=2)
    assert batch.logp_reference is not None and batch.scores is not None
    winner = batch.scores.argmax(-1, keepdim=True)
    shift = torch.zeros(3, 2, dtype=F64).scatter(-1, winner, 1 / (2 * tau))
    logp = batch.logp_reference + torch.where(batch.mask, (shift / batch.lengths)[..., None], 0.0)
    ipo = METHODS["ipo"].override(tau=tau)
    assert float(ipo.loss(logp, batch)) == pytest.approx(0.0, abs=1e-24)
    assert ipo.coefficients(logp, batch).abs().max() < 1e-12
    assert ipo.coefficients(logp * 1.01, batch).abs().max() > 1e-3


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("name", ["dpo", "online_dpo", "cdpo"])
def test_dpo_at_the_reference(name: str, beta: float) -> None:
    batch = make_batch(7, prompts=4, responses=2)
    assert batch.logp_reference is not None and batch.scores is not None
    batch = replace(batch, scores=batch.scores.index_fill(0, torch.tensor([2]), 0.5))  # a tie: K = 3 valid pairs
    row = METHODS[name].override(beta=beta, smoothing=0.0)
    assert float(row.loss(batch.logp_reference, batch)) == pytest.approx(math.log(2), abs=1e-15)
    got = row.coefficients(batch.logp_reference, batch)
    for p in range(4):
        win = int(batch.scores[p].argmax())
        size = 0.0 if p == 2 else beta / (2 * 3)
        assert got[p, win][batch.mask[p, win]].tolist() == pytest.approx([size] * int(batch.lengths[p, win]))
        assert got[p, 1 - win][batch.mask[p, 1 - win]].tolist() == pytest.approx(
            [-size] * int(batch.lengths[p, 1 - win])
        )


def test_dpo_over_all_pairs_divides_by_all_of_them() -> None:
    batch = make_batch(8)
    assert batch.logp_reference is not None and batch.scores is not None
    row = METHODS["dpo"].override(pairs=all_pairs, responses=4, beta=0.5)
    assert float(row.loss(batch.logp_reference, batch)) == pytest.approx(math.log(2), abs=1e-15)
    wins = (batch.scores[..., :, None] > batch.scores[..., None, :]).sum(-1) - (
        batch.scores[..., :, None] < batch.scores[..., None, :]
    ).sum(-1)
    want = torch.where(batch.mask, 0.5 * wins.to(F64)[..., None] / (2 * 18), 0.0)  # 3 prompts × 6 pairs
    assert torch.allclose(row.coefficients(batch.logp_reference, batch), want, atol=1e-15)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_families_of_the_study_by_the_sign_of_their_coefficients(name: str) -> None:
    """Supervised c ≥ 0; contrastive and policy gradient push down somewhere."""
    batch = make_batch(11, responses=max(2, group_size(METHODS[name])), tokens=3)
    assert batch.logp_proximal is not None
    got = METHODS[name].override(gate=1e-9).coefficients if "gate" in METHODS[name].defaults else None
    c = (got or METHODS[name].coefficients)(batch.logp_proximal, batch)
    supervised = getattr(METHODS[name].objective, "supervised", False)
    assert (c.min() >= 0) == supervised and c.max() > 0


# ---------------------------------------------------------------------------------------- exact sums on a tiny policy


@pytest.mark.parametrize("tokens", [1, 2, 3])
@pytest.mark.parametrize("arms", [2, 5])
def test_a_uniform_policy_has_entropy_t_ln_v(tokens: int, arms: int) -> None:
    policy = tabular(2, arms, tokens, scale=0.0)
    prompts = torch.tensor([0, 1])
    log_p = policy.distribution(prompts).detach()
    entropy = -(log_p.exp() * log_p).sum(-1)
    assert entropy.tolist() == pytest.approx([tokens * math.log(arms)] * 2, abs=1e-13)
    every = policy.every_response().expand(2, -1, -1)
    batch = Batch(prompts, every, torch.ones_like(every, dtype=torch.bool))
    seen = policy.evaluate(batch, entropy=True)
    assert seen.entropy is not None
    assert torch.allclose(seen.entropy.sum(-1), entropy[:, None].expand(2, arms**tokens), atol=1e-13)


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 3.0])
def test_the_regularised_reward_is_a_distance_to_the_optimum(beta: float) -> None:
    """E_π r − β KL(π‖π_ref) = β log Z − β KL(π‖π*), π* = π_ref·exp(r/β)/Z."""
    g = torch.Generator().manual_seed(3)
    log_ref = torch.randn(8, generator=g, dtype=F64).log_softmax(-1)
    r = torch.randn(8, generator=g, dtype=F64)
    log_z = (log_ref + r / beta).logsumexp(-1)
    best = log_ref + r / beta - log_z
    for _ in range(5):
        log_p = (2 * torch.randn(8, generator=g, dtype=F64)).log_softmax(-1)
        left = (log_p.exp() * r).sum() - beta * kl.exact(log_p, log_ref)
        right = beta * log_z - beta * kl.exact(log_p, best)
        assert float(left) == pytest.approx(float(right), abs=1e-12)


@pytest.mark.parametrize("name", ["reinforce", "rloo", "ppo_critic_free", "ppo"])
def test_kl_in_the_reward_has_the_exact_expected_gradient(name: str) -> None:
    """Enumerated: E_π over whole groups of (switch(A_reward) + A_KL) ∇log π = ∇(E r − kl·KL), at negative=1."""
    weight, arms, tokens = 0.3, 2, 2
    policy, reference = tabular(1, arms, tokens, seed=1), tabular(1, arms, tokens, seed=2)
    every = policy.every_response()
    r = torch.randn(len(every), generator=torch.Generator().manual_seed(9), dtype=F64)
    # every ordered pair of responses is one group of two, with its probability
    i, j = (x.flatten() for x in torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij"))
    tokens_ = torch.stack([every[i], every[j]], 1)
    batch = Batch(torch.zeros(16, dtype=torch.long), tokens_, torch.ones_like(tokens_, dtype=torch.bool))
    logp = policy.evaluate(batch).logp
    batch = replace(
        batch,
        scores=torch.stack([r[i], r[j]], 1),
        logp_proximal=logp.detach(),
        logp_reference=reference.evaluate(batch).logp.detach(),
        values=torch.zeros_like(logp).detach(),
    )
    batch = replace(batch, penalty=kl.penalty(weight, batch))
    plain = {"reinforce": {"baseline": "none"}, "ppo_critic_free": {"baseline": "none", "scale": "none"}}
    row = METHODS[name].override(**plain.get(name, {"whiten": False, "lam": 1.0} if name == "ppo" else {}))
    total = torch.zeros((), dtype=F64)
    share = logp.detach().sum(-1).exp().prod(-1)
    signal, _ = fixed(row, batch)
    for k in range(16):
        one = torch.tensor([k])
        two = torch.tensor(2.0, dtype=F64)
        own = row.loss(logp[one], batch[one], signal[one], two)
        total = total + share[k] * (own + row.penalty_loss(logp[one], batch[one], signal[one], two))
    got = torch.autograd.grad(-total, policy.logits)[0]
    log_p = policy.distribution(torch.tensor([0]))[0]
    log_q = reference.distribution(torch.tensor([0]))[0].detach()
    objective = (log_p.exp() * r).sum() - weight * kl.exact(log_p, log_q)
    assert torch.allclose(got, torch.autograd.grad(objective, policy.logits)[0], atol=1e-12)


# ------------------------------------------------------------------- convergence to π* = π_ref·exp(r/β)/Z, full support


class Strata(Stream):
    """One uniform number per prompt, spread over the group: draw i of G comes from the i-th of G equal slices."""

    def rand(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        prompts, responses, tokens = shape
        shift = super().rand(prompts, 1, tokens, dtype=dtype)
        return (torch.arange(responses, dtype=dtype)[:, None] + shift) / responses


class Stratified(Categorical):
    """Systematic sampling: exactly the policy's marginals, with next to no noise."""

    def draw(self, prompts: Tensor, responses: int, rng: Stream, poll: Callable[[], None] = no_op) -> Batch:
        slices = Strata(rng.name, rng.seeds, rng.stacked)
        slices.generators = rng.generators
        return super().draw(prompts, responses, slices, poll)


class Enumerated(Categorical):
    """Writes every arm exactly once per prompt: pairs can then be weighed by their exact probability."""

    def draw(self, prompts: Tensor, responses: int, rng: Stream, poll: Callable[[], None] = no_op) -> Batch:
        batch = all_arms(prompts, self.arms)
        return replace(batch, logp_proximal=self.evaluate(batch).logp.detach())


class AllArms(Arms):
    """A dataset with every arm once per prompt."""

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        return self.score(all_arms(self.prompts(start, count, rng), self.arms))


def all_arms(prompts: Tensor, arms: int) -> Batch:
    tokens = torch.arange(arms).expand(*prompts.shape, -1)[..., None]
    return Batch(prompts, tokens, torch.ones_like(tokens, dtype=torch.bool))


def bradley_terry(batch: Batch) -> Pairs:
    """All ordered pairs of a group, weighed by P(w ≻ l) = σ(r_w − r_l), and by π(w)π(l) where a policy wrote them."""
    i, j = torch.tensor(list(permutations(range(batch.mask.shape[-2]), 2))).T
    assert batch.scores is not None
    weight = torch.sigmoid(batch.scores[..., i] - batch.scores[..., j])
    if batch.logp_proximal is not None:
        drawn = batch.logp_proximal.sum(-1).exp()
        weight = weight * drawn[..., i] * drawn[..., j]
    return torch.stack([i, j], -1).expand(*weight.shape, 2), weight


CONVERGENCE = {
    "reinforce": (Stratified, METHODS["reinforce"].override(responses=256), 100, 6.0),
    "ppo": (Stratified, METHODS["ppo"].override(responses=128), 240, 0.5),
    "ppo_critic_free": (Stratified, METHODS["ppo_critic_free"].override(responses=128), 160, 0.5),
    "dpo": (Enumerated, METHODS["dpo"].override(pairs=bradley_terry, responses=6), 80, 20.0),
    "online_dpo": (Enumerated, METHODS["online_dpo"].override(pairs=bradley_terry, responses=6), 100, 20.0),
}


@pytest.mark.parametrize("name", CONVERGENCE)
def test_training_converges_to_the_optimal_policy(name: str) -> None:
    """β 0.5 and 1 as two stacked runs of two contexts of six arms: total variation ≤ 0.02, starting far away."""
    kind, row, steps, lr = CONVERGENCE[name]
    beta = torch.tensor([0.5, 1.0], dtype=F64)
    row = row.override(**{"kl" if "behaviour" in row.needs else "beta": beta})
    g = torch.Generator().manual_seed(0)
    logits = 0.5 * torch.randn(2, 1, 6, generator=g, dtype=F64)
    r = torch.tensor([[0.0, 0.2, 0.4, 0.6, 1.2, 1.5], [1.5, 1.0, 0.0, 0.3, 0.1, 0.5]], dtype=F64)
    policy, size = kind(torch.stack([logits, logits])), 2 * row.responses
    loop = make_loop(
        row,
        Plan(steps, size, size, lr=lr, max_grad_norm=1e9),
        policy=policy,
        problem=AllArms(r, 6, runs=2),
        optimizer=torch.optim.SGD,
        seed=[0, 1],
    )
    best = (logits[:, 0].log_softmax(-1) + r / beta[:, None, None]).softmax(-1)
    away = (logits[:, 0].softmax(-1) - best).abs().sum(-1) / 2
    assert away.min() > 0.1 and best.min() > 0.005
    for record in loop:  # whitened advantages never shrink, so the step has to
        loop.plan = replace(loop.plan, lr=lr * (1 - record.step / steps))
    final = policy.logits[:, :, 0].detach().softmax(-1)
    assert ((final - best).abs().sum(-1) / 2).max() <= 0.02
