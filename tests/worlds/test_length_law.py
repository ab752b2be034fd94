"""The law of lengths and the optimum of J_β, against enumeration of every response of a tiny policy."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.kl import exact
from prefloop.core.streams import Stream
from prefloop.policies.gpt import GPT
from prefloop.worlds.lengths import law
from prefloop.worlds.lengths.answers import END
from prefloop.worlds.lengths.law import Law

F64, TOKENS, WORDS, PROMPTS = torch.float64, 3, 4, 3
REWARD = torch.tensor([0.0, -0.4, -1.0], dtype=F64)


@pytest.fixture(scope="module")
def policy() -> GPT:
    shape = {"vocabulary": WORDS, "prompts": PROMPTS, "tokens": TOKENS, "layers": 1, "heads": 2, "width": 8}
    own = GPT.create([0], end=END, dtype=F64, **shape)  # type: ignore[arg-type]
    own.weights = {k: (x.detach() * 20).requires_grad_() if "head" in k else x for k, x in own.weights.items()}
    return own


def everything(policy: GPT) -> tuple[Tensor, Tensor]:
    """Log-probs [P, N] and lengths [N] of all responses of at most three tokens."""
    texts = [t for n in range(1, TOKENS + 1) for t in product(range(WORDS), repeat=n)]
    texts = [t for t in texts if END not in t[:-1] and (t[-1] == END or len(t) == TOKENS)]
    ids = torch.tensor([[*t, *[0] * (TOKENS - len(t))] for t in texts])
    n = torch.tensor([len(t) for t in texts])
    mask = torch.arange(TOKENS) < n[:, None]
    prompts = (WORDS + torch.arange(PROMPTS))[None]
    batch = Batch(prompts, *(x.expand(1, PROMPTS, -1, -1) for x in (ids, mask)))
    with torch.no_grad():
        return policy.evaluate(batch).logp.sum(-1)[0], n


@pytest.fixture(scope="module")
def known(policy: GPT) -> Tensor:
    """The exact law [P, T]."""
    logp, n = everything(policy)
    return torch.stack([logp.exp()[:, n == k].sum(1) for k in range(1, TOKENS + 1)], 1)


@pytest.fixture(scope="module")
def found(policy: GPT) -> Law:
    return Law(law.sample(policy, WORDS + torch.arange(PROMPTS), 4000, Stream("law", [0], stacked=True))[0])


def test_the_law_is_that_of_all_responses(known: Tensor, found: Law) -> None:
    torch.testing.assert_close(known.sum(1), torch.ones(PROMPTS, dtype=F64))
    torch.testing.assert_close(found.parts[..., 0], known[:, 0].expand(law.PARTS, -1))  # one token needs no sample
    error = found.parts.std(0) / law.PARTS**0.5
    assert ((found.parts.mean(0) - known)[:, 1:].abs() < 5 * error[:, 1:]).all()


def test_lengths_are_those_of_the_sample(policy: GPT) -> None:
    parts, lengths = law.sample(policy, WORDS + torch.arange(PROMPTS), 80, Stream("law", [1], stacked=True))
    assert parts.shape == (law.PARTS, PROMPTS, TOKENS) and lengths.shape == (PROMPTS * 80,)
    assert lengths.min() >= 1 and lengths.max() <= TOKENS


@pytest.mark.parametrize("beta", [0.02, 0.2, 2.0])
def test_the_optimum_is_that_of_all_responses(policy: GPT, known: Tensor, found: Law, beta: float) -> None:
    """β log Σ_y π_ref(y) exp(r(y)/β), which J_β of the optimal policy itself reaches and nothing exceeds."""
    logp, n = everything(policy)
    rewards = REWARD[n - 1]
    best = beta * torch.logsumexp(logp + rewards / beta, -1)
    star = (logp + rewards / beta).log_softmax(-1)
    reached = (star.exp() * rewards).sum(-1) - beta * exact(star, logp)
    torch.testing.assert_close(reached, best)
    torch.testing.assert_close(law.optimum(known, REWARD, beta), best.mean())
    estimate = found.estimate(lambda shares: law.optimum(shares, REWARD, beta))
    assert abs(estimate.value - float(best.mean())) < 5 * estimate.error + 1e-9


def test_the_optimum_between_its_limits(known: Tensor) -> None:
    """It falls with β, from the reward's ceiling to what the reference has."""
    values = [float(law.optimum(known, REWARD, beta)) for beta in (1e-4, 0.1, 1.0, 1e4)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0, abs=1e-3) and values[-1] == pytest.approx(
        float(law.mean(known, REWARD)), abs=1e-3
    )


@pytest.mark.parametrize("what", ["mean", "optimum"])
def test_a_constant_is_added_exactly(found: Law, what: str) -> None:
    """Whatever the sample: its shares add up to 1 for each prompt."""

    def of(reward: Tensor) -> law.Estimate:
        return found.estimate(lambda p: law.mean(p, reward) if what == "mean" else law.optimum(p, reward, 0.3))

    assert of(REWARD + 2).value == pytest.approx(of(REWARD).value + 2) and of(REWARD + 2).error == pytest.approx(
        of(REWARD).error
    )
    assert of(torch.full((TOKENS,), 2.0, dtype=F64)).error == pytest.approx(0, abs=1e-9)


def test_one_optimum_for_all_prompts_would_be_too_high(known: Tensor) -> None:
    pooled = known.mean(0, keepdim=True)
    assert float(law.optimum(pooled, REWARD, 0.2)) > float(law.optimum(known, REWARD, 0.2)) + 1e-6


def test_standard_errors_cover(policy: GPT, known: Tensor) -> None:
    """Of forty small samples, about 95 % have the truth inside their interval."""
    truth, inside = float(law.optimum(known, REWARD, 0.1)), 0
    prompts = WORDS + torch.arange(PROMPTS)
    for seed in range(40):
        parts, _ = law.sample(policy, prompts, 32, Stream("law", [seed], stacked=True))
        one = Law(parts).estimate(lambda shares: law.optimum(shares, REWARD, 0.1))
        inside += abs(one.value - truth) < 2.4 * one.error  # t with 7 degrees of freedom
    assert 34 <= inside <= 40
