"""Coverage of data by samples of the reference: by hand, against enumeration within 4 standard errors, refusals."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.analysis import coverage, enumerated
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.statistics import Mean
from prefloop.core.streams import streams
from toys import rewards, tabular

SIGMAS = 4.0
PROMPTS, GROUP, ARMS = 60, 24, 4


@pytest.fixture(scope="module")
def lab() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Law of a tabular reference, samples of it [P, n], responses of the data [N], and the prompts of these."""
    policy, other = tabular(PROMPTS, ARMS, 2), tabular(PROMPTS, ARMS, 2, seed=5, scale=0.3)
    x, rng = torch.arange(PROMPTS), streams(1)["sampling"]
    samples, data = policy.draw(x, GROUP, rng).responses, other.draw(x, 2, rng).responses
    return policy.distribution(x).detach(), samples, data.flatten(0, 1), x.repeat_interleave(2)


def number(tokens: Tensor) -> Tensor:
    return tokens[..., 0] * ARMS + tokens[..., 1]


def close(gap: np.ndarray) -> bool:
    return abs(gap.mean()) <= SIGMAS * gap.std(ddof=1) / math.sqrt(len(gap))


def test_percentiles(lab: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    law, samples, data, prompt = lab
    own, values = law.gather(1, number(samples)), law[prompt, number(data)]
    found = coverage.percentiles(values.numpy(), prompt.numpy(), own.numpy())
    truth = enumerated.percentile(law[prompt], law[prompt], values).numpy()
    assert close(found - truth) and abs(truth.mean() - 0.5) > 0.05
    mine = np.array([coverage.percentiles(own[:, 0].numpy(), np.arange(PROMPTS), own[:, 1:].numpy())])
    assert close(mine.ravel() - 0.5)  # the reference's own


def test_unlikely_responses() -> None:
    """Many samples, so that the edge is known: the share outside is that of the exact edge; of its own, 1 %."""
    policy, arms = tabular(20, 30, 1, scale=1.5), 30
    x = torch.arange(20)
    law = policy.distribution(x).detach()
    samples = policy.draw(x, 3000, streams(2)["sampling"]).responses[..., 0]
    own = law.gather(1, samples).numpy()
    exact = enumerated.standardised(law, law)
    edge = enumerated.quantile(law, exact, coverage.UNLIKELY)
    data = torch.arange(arms).repeat(20)
    prompt = x.repeat_interleave(arms)
    found = coverage.unlikely(law[prompt, data].numpy(), prompt.numpy(), own)
    assert isinstance(found, Mean)
    near = float(((exact - edge).abs() < 0.05).double().mean())  # responses that a little noise moves over the edge
    assert abs(found.value - float((exact < edge).double().mean())) <= SIGMAS * found.se + near
    fresh = policy.draw(x, 400, streams(3)["sampling"]).responses[..., 0]
    home = coverage.unlikely(law.gather(1, fresh).flatten().numpy(), x.repeat_interleave(400).numpy(), own)
    assert isinstance(home, Mean) and home.value <= coverage.UNLIKELY + SIGMAS * home.se


@pytest.mark.parametrize("n", (6, 40))
def test_the_references_own_responses_are_unlikely_in_one_case_of_a_hundred(n: int) -> None:
    rng = np.random.default_rng(0)
    level, spread = rng.normal(size=(3000, 1)), rng.uniform(0.5, 3, size=(3000, 1))
    drawn = level + spread * rng.gamma(2.0, size=(3000, n + 1))
    found = coverage.unlikely(drawn[:, -1], np.arange(3000), drawn[:, :-1])
    assert isinstance(found, Mean) and abs(found.value - 0.01) <= SIGMAS * 0.01**0.5 / 3000**0.5


def test_too_few_samples_cannot_tell() -> None:
    x = np.random.default_rng(0).normal(size=(5, 8))
    assert "5 can be" not in str(coverage.unlikely(x[:, 0], np.arange(5), x))
    for samples, part in ((x, "40 can be compared"), (x[:, :2], "from 3 on"), (np.ones((20, 8)), "0 can be compared")):
        found = coverage.unlikely(samples[:, 0], np.arange(len(samples)), samples)
        assert isinstance(found, CannotTell) and part in found.reason
    assert isinstance(coverage.novelty([[1, 2]], np.array([0]), [[[1, 2, 3], [1, 2]]]), CannotTell)
    for alone in (coverage.novelty([[1, 2, 3]], np.array([0]), [[[1, 2, 3]]]), coverage.own_novelty([[[1, 2, 3]]])):
        assert isinstance(alone, CannotTell) and "one sample" in alone.reason


def test_novelty(lab: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    """A bigram is a whole response here: it is new to n − 1 samples with the chance (1 − q)^(n − 1)."""
    law, samples, data, prompt = lab
    found = coverage.novelty(data.tolist(), prompt.numpy(), samples.tolist(), 2)
    own = coverage.own_novelty(samples.tolist(), 2)
    assert isinstance(found, Mean) and isinstance(own, Mean)
    new = (1 - law.exp()) ** (GROUP - 1)
    assert abs(found.value - float(new[prompt, number(data)].mean())) <= SIGMAS * found.se
    assert abs(own.value - float((law.exp() * new).sum(-1).mean())) <= SIGMAS * own.se
    assert found.value > own.value


def test_shift(lab: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    law, samples, data, prompt = lab
    values = torch.arange(ARMS**2, dtype=torch.float64)
    found = coverage.shift(values[number(data)].numpy(), prompt.numpy(), values[number(samples)].numpy())
    mean = (law.exp() * values).sum(-1)
    truth = float((values[number(data)] - mean[prompt]).mean())
    within = float((law.exp() * (values - mean[:, None]) ** 2).sum(-1).mean().sqrt())
    assert abs(found.difference.value - truth) <= SIGMAS * found.difference.se
    assert isinstance(found.standardised, Mean)
    assert found.standardised.value == pytest.approx(found.difference.value / within, rel=0.1)
    assert isinstance(coverage.shift(np.ones(2), np.array([0, 1]), np.ones((2, 3))).standardised, CannotTell)


def test_similarity_by_hand() -> None:
    def levenshtein(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return len(a) + len(b)
        same = a[-1] == b[-1]
        return min(levenshtein(a[:-1], b) + 1, levenshtein(a, b[:-1]) + 1, levenshtein(a[:-1], b[:-1]) + (not same))

    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = (rng.integers(3, size=rng.integers(0, 6)).tolist() for _ in range(2))
        size = max(len(a), len(b))
        assert coverage.edit_similarity(a, b) == pytest.approx(1 - levenshtein(a, b) / size if size else 1.0)
    assert coverage.shared_tokens([1, 1, 2], [1, 3]) == pytest.approx(0.4)
    assert coverage.shared_tokens([], []) == 1.0 == coverage.shared_tokens([1, 2], [2, 1])
    states = np.array([[3.0, 0.0], [0.0, 1.0]]) + 100
    assert coverage.hidden_similarity(states, states) == pytest.approx([1, 1])
    assert coverage.hidden_similarity(states[:1], states[1:]) == pytest.approx([-1])


def test_the_published_coefficients() -> None:
    """The ball's coefficient rises from 1 to the global one, and no policy of the ball exceeds it."""
    g = torch.Generator().manual_seed(0)
    log_ref = torch.randn(3, 6, generator=g, dtype=torch.float64).log_softmax(-1)
    log_mu = torch.randn(3, 6, generator=g, dtype=torch.float64).log_softmax(-1)
    whole = enumerated.global_coverage(log_ref)
    radii = (0.0, 0.01, 0.1, 1.0, 10.0, math.inf)
    balls = [enumerated.local_coverage(log_ref, log_ref, radius) for radius in radii]
    assert balls[0] == pytest.approx(1, abs=1e-6) and balls == sorted(balls) and balls[-1] == pytest.approx(whole)
    radius = 0.1
    most = enumerated.local_coverage(log_ref, log_mu, radius)
    reached = 0.0
    for x, y, height in product(range(3), range(6), torch.linspace(0, 8, 100).tolist()):
        lean = torch.zeros(3, 6, dtype=torch.float64)
        lean[x, y] = height
        log_pi = (log_ref + lean).log_softmax(-1)
        if float((log_pi.exp() * (log_pi - log_ref)).sum(-1).mean()) <= radius:
            ratio = float((log_pi - log_mu).max().exp())
            assert ratio <= most + 1e-9
            reached = max(reached, ratio)
    assert reached > 0.9 * most
    unequal = enumerated.local_coverage(log_ref, log_mu, radius, [0.0, 0.5, 0.5])
    assert unequal <= enumerated.local_coverage(log_ref[1:], log_mu[1:], radius) + 1e-9


def test_concentrability_is_one_plus_chi_square() -> None:
    log_p, log_q = rewards(2, 3, 1).log_softmax(-1), rewards(2, 3, 1, seed=1).log_softmax(-1)
    chi = ((log_p.exp() - log_q.exp()) ** 2 / log_q.exp()).sum(-1)
    assert enumerated.concentrability(log_p, log_q).numpy() == pytest.approx((1 + chi).numpy())


def test_the_stage_boundary() -> None:
    rng = np.random.default_rng(0)
    prompt = np.repeat(np.arange(80), 2)
    on, off = rng.normal(size=(80, 8)), rng.normal(size=160)
    same = coverage.stage_boundary(off, prompt, on)
    assert abs(same.votes.value - 0.5) < SIGMAS * same.votes.se and not same.decided
    better, worse = coverage.stage_boundary(off, prompt, on + 1), coverage.stage_boundary(off, prompt, on - 1)
    assert better.stage == "fine-tuning" and worse.stage == "injection" and better.decided and worse.decided
    assert better.votes.value > better.preference.value > 0.5  # votes are all or nothing
    by_hand = coverage.stage_boundary(np.array([0.0]), np.array([0]), np.array([[1.0, 0.0, -1.0, 2.0]]))
    assert by_hand.votes.value == pytest.approx(2.5 / 4)
    assert by_hand.preference.value == pytest.approx(np.mean(1 / (1 + np.exp([-1.0, 0.0, 1.0, -2.0]))))
