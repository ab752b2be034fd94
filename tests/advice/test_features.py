"""Features before training: sampled values against exact ones, their errors, what cannot be told, and the lab's own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from prefloop.advice.features import FEATURES, SAMPLES, SIZES, Facts, features, in_deviations, ratio, top_agreement
from prefloop.analysis import enumerated
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.offer import Given, Samples
from prefloop.analysis.statistics import Mean

FACTS = Facts(beta=0.1, steps=64, samples=5120, prompts=10, groups=200, group=4, cardinal=True, learned=False)
PROMPTS, RESPONSES = 400, 12
RNG = np.random.default_rng(3)
LOGITS, REWARD = (RNG.normal(size=(PROMPTS, RESPONSES)) for _ in range(2))
LAW = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
CHOSEN, REJECTED = REWARD.argmax(1), REWARD.argmin(1)  # the data hold the best and the worst response
ROWS = np.arange(PROMPTS)


def sampled(count: int = SAMPLES) -> Samples:
    drawn = (LAW.cumsum(1)[:, None] < RNG.random((PROMPTS, count))[..., None]).sum(-1).clip(max=RESPONSES - 1)
    tokens = [[[int(y)] for y in row] for row in drawn]
    return Samples(np.log(LAW)[ROWS[:, None], drawn], np.ones(drawn.shape), tokens, REWARD[ROWS[:, None], drawn])


def data() -> Given:
    both = np.stack([CHOSEN, REJECTED], 1).ravel()
    prompt = np.repeat(ROWS, 2)
    pairs = np.stack([2 * ROWS, 2 * ROWS + 1], 1)
    side = np.tile([1, -1], PROMPTS)
    tokens = [[int(y)] for y in both]
    return Given(
        prompt, side, np.log(LAW)[prompt, both], np.ones(len(both)), tokens, [], pairs, reward=REWARD[prompt, both]
    )


def exact() -> dict[str, float]:
    log_ref, reward = torch.from_numpy(np.log(LAW)), torch.from_numpy(REWARD)
    mean = (LAW * REWARD).sum(1)
    spread = math.sqrt(float(((LAW * REWARD**2).sum(1) - mean**2).mean()))
    few, some, many = (enumerated.best_of(log_ref, reward, size).numpy() for size in SIZES)

    def place(values: torch.Tensor) -> float:
        return float(enumerated.percentile(log_ref, values, values[ROWS, CHOSEN]).mean())

    def below(arm: np.ndarray) -> np.ndarray:  # chance that a sample scores above the response, ties half
        gap = REWARD - REWARD[ROWS, arm][:, None]
        return np.asarray((LAW * ((gap > 0) + 0.5 * (gap == 0))).sum(1))

    return {
        "reach": float((many - mean).mean()) / spread,
        "tail": float((many - some).mean() / (some - few).mean()),
        "pull": math.log(spread / FACTS.beta),
        "winner_reward": place(reward),
        "winner_short": float((many - REWARD[ROWS, CHOSEN]).mean()) / spread,
        "winner_logp": place(log_ref),
        "votes": float(np.concatenate([below(CHOSEN), below(REJECTED)]).mean()),
    }


def test_sampled_features_agree_with_the_exact_ones() -> None:
    found = features(data(), sampled(), FACTS)
    for name, value in exact().items():
        one = found[name]
        assert isinstance(one, Mean) and one.se > 0, name
        assert abs(one.value - value) < 4 * one.se, (name, one, value)


def test_known_features_are_exact() -> None:
    found = features(data(), sampled(), FACTS)
    known = {name: found[name] for name in ("steps", "fresh", "groups", "group", "passes", "cardinal", "learned")}
    values = {name: one.value for name, one in known.items() if isinstance(one, Mean)}
    assert values == {
        "steps": 6.0,
        "fresh": 1.0,  # 5,120 responses are twice as many as 64 steps of 40
        "groups": math.log10(200),
        "group": 2.0,
        "passes": math.log2(3.2),
        "cardinal": 1.0,
        "learned": 0.0,
    }
    assert found["agrees"] == Mean(1.0, 0.0, PROMPTS) and found["alike"] == Mean(0.0, 0.0, PROMPTS)
    likelier = (LAW[ROWS, CHOSEN] > LAW[ROWS, REJECTED]).mean()
    assert isinstance(found["likelier"], Mean) and found["likelier"].value == pytest.approx(likelier)


def test_what_is_missing_has_its_reason() -> None:
    own = sampled()
    everything = features(None, own, FACTS)
    assert set(everything) == set(FEATURES)
    assert "no responses" in str(everything["winner_logp"]) and isinstance(everything["reach"], Mean)
    without = features(replace(data(), reward=None), replace(own, reward=None), FACTS)
    assert "no reward" in str(without["reach"]) and "no reward" in str(without["agrees"])
    assert isinstance(without["winner_logp"], Mean)
    few = features(data(), sampled(16), FACTS)
    assert "64 samples" in str(few["reach"]) and "64 samples" in str(few["winner_short"])
    unpaired = features(replace(data(), pairs=np.zeros((0, 2), dtype=np.intp)), own, FACTS)
    assert "no pairs" in str(unpaired["likelier"])
    flat = features(data(), replace(own, reward=np.ones((PROMPTS, SAMPLES))), FACTS)
    assert "score the same" in str(flat["reach"])
    learned = features(data(), own, replace(FACTS, learned=True))
    assert isinstance(learned["top_agrees"], CannotTell) and isinstance(learned["agrees"], Mean)


def test_the_delta_method_has_the_spread_of_repetitions() -> None:
    rng = np.random.default_rng(0)

    def once() -> tuple[Mean, Mean]:
        x = rng.normal(1.0, 0.5, size=60)
        variance = rng.gamma(4.0, 0.25, size=60)
        found = ratio(x, rng.normal(2.0, 0.5, size=60))
        assert isinstance(found, Mean)
        return found, in_deviations(x, variance)

    for found in zip(*[once() for _ in range(600)], strict=True):
        spread = np.std([one.value for one in found])
        assert np.mean([one.se for one in found]) == pytest.approx(spread, rel=0.1)
    assert isinstance(ratio(np.ones(3), np.zeros(3)), CannotTell)


def test_models_that_differ_at_the_top_agree_less_there() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(50, 64))
    same, noisy = top_agreement(gold, 2 * gold + 1), top_agreement(gold, gold + 0.5 * rng.normal(size=gold.shape))
    capped = top_agreement(gold, np.minimum(gold, 0.5))
    assert same == Mean(1.0, 0.0, 50) and 0.5 < noisy.value < 0.9
    assert capped.value == pytest.approx(0.5, abs=0.05)  # blind above: ties count half
