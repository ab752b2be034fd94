"""State of policies against a table by hand, Monte Carlo, and the enumeration of all responses of a tiny GPT."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.metrics import drift
from prefloop.core.streams import Stream
from prefloop.policies.categorical import Categorical
from prefloop.policies.gpt import GPT
from prefloop.policies.mlp import MLP
from prefloop.policies.stacked import Stacked
from prefloop.worlds.measures import state_of
from toys import F64

LN2, LN3 = math.log(2), math.log(3)
REVERSE, FORWARD = "eval/kl_reverse_exact", "eval/kl_forward_exact"
NAMES = ("eval/gold", REVERSE, FORWARD, "eval/entropy", "eval/mass/first")


def stream(seeds: list[int]) -> Stream:
    return Stream("evaluation", seeds, stacked=True)


def scattered(policy: Any, scale: float, seed: int) -> Any:
    """The same policy with noise on every parameter of every run."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += scale * torch.randn(weight.shape, generator=g, dtype=F64)
    return policy


def tiny(seeds: list[int], seed: int) -> GPT:
    """Three words, three tokens: 27 responses to a prompt."""
    return scattered(GPT.create(seeds, vocabulary=3, tokens=3, layers=1, heads=1, width=4, dtype=F64), 0.7, seed)


def small(seeds: list[int], seed: int) -> MLP:
    return scattered(MLP.create(seeds, context=3, arms=5, hidden=(6,), dtype=F64), 0.8, seed)


def masks(runs: int, arms: int) -> dict[str, Tensor]:
    arm = torch.arange(arms).expand(runs, arms)
    return {"first": arm == 0, "last": arm == arms - 1, "rest": (arm > 0) & (arm < arms - 1)}


def observe(policy: Any, reference: Any, prompts: Tensor, gold: Tensor, tokens: int, seed: int = 0, **more: int) -> Any:
    runs, arms = gold.shape
    rng = stream([100 * seed + run for run in range(runs)])
    return state_of(policy, reference, prompts, {"eval/gold": gold}, masks(runs, arms), tokens=tokens, rng=rng, **more)


# -------------------------------------------------------------------------------------------------------------- arms


def test_two_contexts_of_three_arms_by_hand() -> None:
    """π = (½, ¼, ¼) and uniform, π_ref = (⅛, ⅛, ¾) and uniform, rewards 1, ½, 0."""
    own = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=F64).log().view(1, 2, 1, 3)
    base = torch.tensor([[0.125, 0.125, 0.75], [1 / 3, 1 / 3, 1 / 3]], dtype=F64).log().view(1, 2, 1, 3)
    gold = torch.tensor([[1.0, 0.5, 0.0]], dtype=F64)
    found = observe(Categorical(own), Categorical(base), torch.tensor([[0, 1]]), gold, 1)
    each = {
        "eval/gold": (0.625, 0.5),
        REVERSE: (0.5 * 2 * LN2 + 0.25 * LN2 - 0.25 * LN3, 0.0),
        FORWARD: (-0.125 * 2 * LN2 - 0.125 * LN2 + 0.75 * LN3, 0.0),
        "eval/entropy": (1.5 * LN2, LN3),
        "eval/mass/first": (0.5, 1 / 3),
        "eval/mass/last": (0.25, 1 / 3),
        "eval/mass/rest": (0.25, 1 / 3),
    }
    assert found.keys() == {*each, *(f"{name}_se" for name in each)}
    for name, (a, b) in each.items():
        assert float(found[name]) == pytest.approx((a + b) / 2, abs=1e-14)
        assert float(found[f"{name}_se"]) == pytest.approx(abs(a - b) / 2, abs=1e-14)  # |a−b|/√2, over √2


def test_an_arm_without_probability_adds_nothing() -> None:
    own = torch.tensor([0.0, 0.0, -torch.inf], dtype=F64).view(1, 1, 1, 3)
    base = torch.tensor([0.5, 0.25, 0.25], dtype=F64).log().view(1, 1, 1, 3)
    gold = torch.tensor([[1.0, 0.0, 9.0]], dtype=F64)
    found = observe(Categorical(own), Categorical(base), torch.tensor([[0, 0]]), gold, 1)
    assert float(found["eval/entropy"]) == pytest.approx(LN2) and float(found["eval/gold"]) == pytest.approx(0.5)
    assert float(found[REVERSE]) == pytest.approx(0.5 * LN2) and float(found[FORWARD]) == math.inf


def test_arms_equal_monte_carlo() -> None:
    """40,000 responses per run, each number within 4 standard errors; runs have their own policies and rewards."""
    policy, reference, n = small([0, 1], 5), small([0, 1], 6), 2000
    gold = torch.tensor([[0.0, 0.2, 0.5, 0.9, 1.0], [1.0, 0.0, 0.0, 0.3, 0.1]], dtype=F64)
    prompts = stream([3, 4]).rand(20, 3, dtype=F64)
    found = observe(policy, reference, prompts, gold, 1)

    def drawn(writer: MLP, seed: int) -> tuple[Batch, Tensor, Tensor]:
        batch = writer.draw(prompts, n, stream([seed, seed + 1]))
        with torch.no_grad():
            return batch, *(p.evaluate(batch).logp[..., 0] for p in (policy, reference))

    batch, own, base = drawn(policy, 7)
    _, away, home = drawn(reference, 9)
    arms = batch.responses[..., 0]
    sampled = {
        "eval/gold": gold.gather(-1, arms.flatten(1)).view(arms.shape),
        REVERSE: own - base,
        FORWARD: home - away,
        "eval/entropy": -own,
        "eval/mass/first": (arms == 0).double(),
        "eval/mass/last": (arms == 4).double(),
    }
    for name, x in sampled.items():
        error = (x.var(-1) / n).mean(-1).sqrt() / 20**0.5  # the prompts are the same: only responses vary
        assert bool(((found[name] - x.mean((1, 2))).abs() < 4 * error).all()), name
        assert bool((found[name].diff().abs() > 0.01).all())  # and a run's number is its own


def test_arms_use_no_random_numbers() -> None:
    rng = stream([0])
    policy = small([0], 5)
    before = rng.state()
    prompts, gold = (
        torch.rand(1, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0)),
        torch.eye(5, dtype=F64)[:1],
    )
    state_of(policy, policy, prompts, {"eval/gold": gold}, {}, tokens=1, rng=rng)
    assert torch.equal(rng.state(), before)


# --------------------------------------------------------------------------------------------------------- sequences

EVERY = torch.tensor(list(itertools.product(range(3), repeat=3)))


def chain(policy: GPT, prompt: int) -> Tensor:
    """log π of all 27 responses to a prompt, token by token: [S, 27]."""
    responses = EVERY.expand(policy.runs, 1, 27, 3)
    with torch.no_grad():
        full = policy.next_logp(torch.full((policy.runs, 1), prompt), responses)
    return sum(full[:, 0, torch.arange(27), t, EVERY[:, t]] for t in range(3))  # type: ignore[return-value]


def enumerated(policy: GPT, reference: GPT, prompt: int, gold: Tensor) -> dict[str, Tensor]:
    p, q = chain(policy, prompt), chain(reference, prompt)
    assert torch.allclose(p.exp().sum(-1), torch.ones(policy.runs, dtype=F64))
    score = gold[:, EVERY].mean(-1)
    return {
        "eval/gold": (p.exp() * score).sum(-1),
        REVERSE: (p.exp() * (p - q)).sum(-1),
        FORWARD: (q.exp() * (q - p)).sum(-1),
        "eval/entropy": -(p.exp() * p).sum(-1),
        "eval/mass/first": (p.exp() * (EVERY == 0).double().mean(-1)).sum(-1),
    }


GOLD = torch.tensor([[0.0, 0.3, 1.0], [1.0, 0.1, 0.4]], dtype=F64)


def test_sequences_equal_enumeration() -> None:
    """One prompt 500 times, 4 responses each: within 4 of the reported standard errors, and these are not wide."""
    policy, reference = tiny([0, 1], 3), tiny([0, 1], 4)
    for prompt in range(3):
        found = observe(policy, reference, torch.full((2, 500), prompt), GOLD, 3, seed=prompt)
        for name, want in enumerated(policy, reference, prompt, GOLD).items():
            error = found[f"{name}_se"]
            assert bool(((found[name] - want).abs() < 4 * error).all()), (prompt, name)
            assert bool((error < 0.1 * want.abs() + 0.01).all()) and bool((error > 0).all())


def test_a_mixture_of_prompts_is_their_mean() -> None:
    policy, reference = tiny([0, 1], 3), tiny([0, 1], 4)
    prompts = (torch.arange(900) % 3).expand(2, 900)
    found = observe(policy, reference, prompts, GOLD, 3)
    parts = [enumerated(policy, reference, x, GOLD) for x in range(3)]
    for name in NAMES:
        want = torch.stack([part[name] for part in parts]).mean(0)
        assert bool(((found[name] - want).abs() < 4 * found[f"{name}_se"]).all()), name


def test_reported_errors_are_the_spread_of_repeated_estimates() -> None:
    """80 estimates from 60 prompts: mean of z² is 1 to within 4·√(2/80), and the mean z is 0 to within 4/√80."""
    policy, reference, repeats = tiny([0, 1], 3), tiny([0, 1], 4), 80
    want, prompts = enumerated(policy, reference, 1, GOLD), torch.full((2, 60), 1)
    seen = [observe(policy, reference, prompts, GOLD, 3, seed=k) for k in range(repeats)]
    for name in NAMES:
        z = torch.stack([(found[name] - want[name]) / found[f"{name}_se"] for found in seen])
        assert bool(((z.square().mean(0) - 1).abs() < 4 * math.sqrt(2 / repeats)).all()), name
        assert bool((z.mean(0).abs() < 4 / math.sqrt(repeats)).all()), name


def test_standard_errors_shrink_as_one_over_root_n() -> None:
    """16 times the prompts: a quarter of the error, to within a fifth; more responses per prompt help as well."""
    policy, reference = tiny([0, 1], 3), tiny([0, 1], 4)
    few, many = (observe(policy, reference, torch.full((2, n), 2), GOLD, 3, seed=n) for n in (250, 4000))
    wide = observe(policy, reference, torch.full((2, 1000), 2), GOLD, 3, group=16)
    for name in NAMES:
        for more in (many, wide):
            share = more[f"{name}_se"] / few[f"{name}_se"]
            assert bool(((share - 0.25).abs() < 0.05).all()), (name, share)


def test_the_estimate_of_the_reward_is_sharper_than_the_mean_of_sampled_scores() -> None:
    policy, reference = tiny([0, 1], 3), tiny([0, 1], 4)
    prompts = torch.full((2, 500), 0)
    found = observe(policy, reference, prompts, GOLD, 3)
    drawn = policy.draw(prompts, 4, stream([0, 1])).responses
    scores = GOLD.gather(-1, drawn.flatten(1)).view(drawn.shape).mean((2, 3))
    assert bool((found["eval/gold_se"] < 0.8 * scores.std(-1) / 500**0.5).all())


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_uniform_policy_has_entropy_t_log_v(tokens: int) -> None:
    policy: Stacked = GPT.create([0, 1], vocabulary=5, tokens=3, layers=1, heads=1, width=4, dtype=F64)
    prompts, gold = torch.zeros(2, 6, dtype=torch.long), stream([8, 9]).rand(5, dtype=F64)
    if tokens == 1:
        policy, prompts = small([0, 1], 1), stream([5, 6]).rand(6, 3, dtype=F64)
    last = "head.weight" if tokens == 3 else "layer1.weight"
    with torch.no_grad():
        policy.weights[last].zero_()
        if tokens == 1:
            policy.weights["layer1.bias"].zero_()
    found = observe(policy, policy, prompts, gold, tokens)
    assert found["eval/entropy"].tolist() == pytest.approx([tokens * math.log(5)] * 2, abs=1e-13)
    assert found["eval/gold"].tolist() == pytest.approx(gold.mean(-1).tolist(), abs=1e-14)
    assert found["eval/entropy_se"].abs().max() < 1e-14


@pytest.mark.parametrize("tokens", [1, 3])
def test_at_the_reference_both_kls_are_zero_and_masses_add_up(tokens: int) -> None:
    policy: Any = tiny([0, 1], 3) if tokens == 3 else small([0, 1], 5)
    prompts = torch.ones(2, 9, dtype=torch.long) if tokens == 3 else stream([5, 6]).rand(9, 3, dtype=F64)
    gold = GOLD if tokens == 3 else stream([8, 9]).rand(5, dtype=F64)
    found = observe(policy, policy.reference(), prompts, gold, tokens)
    for name in (REVERSE, FORWARD):
        assert found[name].tolist() == [0, 0] and found[f"{name}_se"].tolist() == [0, 0]
    total = found["eval/mass/first"] + found["eval/mass/last"] + found["eval/mass/rest"]
    assert total.tolist() == pytest.approx([1, 1], abs=1e-14)
    assert all(bool((found[f"eval/mass/{name}"] > 0).all()) for name in ("first", "last", "rest"))


def test_the_kl_since_collection_is_that_of_the_exact_policies() -> None:
    """Mean over 60,000 responses of the policy at collection, within 4 standard errors of the enumerated KL."""
    before = tiny([0, 1], 3)
    after = scattered(before.take(torch.tensor([0, 1])), 0.1, 8)
    batch = before.draw(torch.full((2, 15_000), 1), 4, stream([0, 1]))
    with torch.no_grad():
        logp = after.evaluate(batch).logp
    p, q = chain(before, 1), chain(after, 1)
    want = (p.exp() * (p - q)).sum(-1)
    error = ((p.exp() * (p - q - want[:, None]) ** 2).sum(-1) / 60_000).sqrt()
    _, _, ess, kl = drift(logp, batch)
    assert bool(((kl - want).abs() < 4 * error).all())
    share = 1 / (2 * q - p).exp().sum(-1)  # (E w)²/E w² with E w = 1 and w = q/p
    assert ess.tolist() == pytest.approx(share.tolist(), rel=0.05)
