"""The card of a reward model: hand values, calibration, correlations, and the page."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from prefloop.report import reward_page
from prefloop.rewards.bradley_terry.card import (
    Card,
    as_record,
    by_gap,
    chance_error,
    correlation,
    histogram,
    reward_card,
)


def made(n: int = 400, temperature: float = 1.0) -> Card:
    """A model whose margins are right by a factor: `temperature` above 1 makes it underconfident."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=n) * 1.5
    margin = np.where(rng.random(n) < 1 / (1 + np.exp(-truth)), truth, -truth) / temperature
    length = rng.integers(5, 60, 2 * n)
    score = np.stack([margin, 0 * margin], -1).ravel()
    return reward_card(
        margin,
        length[::2] - length[1::2],
        [i // 2 for i in range(n)],
        score=score,
        length=length,
        group=np.arange(n).repeat(2),
        response_keys=[i // 4 for i in range(2 * n)],
        gold=score**3,
        n=40,
    )


def test_small_cards_by_hand() -> None:
    card = reward_card(
        [2.0, -1.0, 0.0],
        [3, -2, 0],
        ["a", "b", "b"],
        score=[2.0, 0.0, 0.0, 1.0, 0.5, 0.5],
        length=[9, 6, 4, 6, 5, 5],
        group=[0, 0, 1, 1, 2, 2],
        response_keys=["a", "a", "b", "b", "b", "b"],
    )
    assert (card.pairs, card.questions, card.responses) == (3, 2, 6)
    assert card.accuracy.value == 0.5 and card.longer.value == 0.5 and card.gold is None
    nll = [math.log1p(math.exp(-m)) for m in (2.0, -1.0, 0.0)]
    assert card.nll.value == pytest.approx(sum(nll) / 3) and card.margin.value == pytest.approx(1 / 3)
    assert card.spread.value == pytest.approx((math.sqrt(2) + math.sqrt(0.5) + 0) / 3)
    assert len(card.bins) == 1
    predicted = sum(1 / (1 + math.exp(-abs(m))) for m in (2.0, -1.0, 0.0)) / 3
    assert card.bins[0].predicted == pytest.approx(predicted)
    assert card.calibration_error == pytest.approx(abs(predicted - 0.5))
    assert card.length.overall.value == pytest.approx(spearmanr([2, 0, 0, 1, 0.5, 0.5], [9, 6, 4, 6, 5, 5]).statistic)


def test_calibration_tells_a_right_scale_from_a_wrong_one() -> None:
    card, timid, bold = (made(4000, temperature) for temperature in (1.0, 4.0, 0.25))
    assert card.calibration_error < 0.03 < 0.1 < min(timid.calibration_error, bold.calibration_error)
    assert card.nll.value < min(timid.nll.value, bold.nll.value)
    assert sum(b.accuracy.low <= b.predicted <= b.accuracy.high for b in card.bins) >= 7
    accuracy = [b.accuracy.value for b in card.bins]
    assert len(accuracy) == 10 and accuracy[0] < 0.65 < 0.9 < accuracy[-1]


def test_noise_is_not_read_as_miscalibration() -> None:
    rng = np.random.default_rng(1)
    gap = np.abs(rng.normal(size=(30, 100)))
    margins = np.where(rng.random(gap.shape) < 1 / (1 + np.exp(-gap)), gap, -gap)  # calibrated by construction
    errors = [
        sum(b.pairs * abs(b.predicted - b.accuracy.value) for b in by_gap(m, range(100), n=2)) / 100 for m in margins
    ]
    expected = chance_error(margins[0], n=500)
    assert np.mean(errors) == pytest.approx(expected.value, abs=0.015) and expected.value > 0.05
    assert np.mean([x <= expected.high for x in errors]) >= 0.9
    assert made(400).calibration_error < made(400).chance_error.high < made(400, 0.25).calibration_error


def test_bins_hold_every_pair_once_and_the_order_of_pairs_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    margin = rng.normal(size=137)
    bins = by_gap(margin, range(137), n=20)
    assert sum(b.pairs for b in bins) == 137 and len(bins) == 6
    assert all(a.high <= b.low for a, b in pairwise(bins))
    turned = by_gap(margin[::-1], range(137), n=20)
    assert [b.accuracy.value for b in turned] == [b.accuracy.value for b in bins]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 37.0, 1e5])
def test_histograms_hold_every_value_between_round_edges(scale: float) -> None:
    x = np.random.default_rng(4).normal(size=500) * scale
    found = histogram(x)
    assert sum(found.counts) == 500 and len(found.edges) == len(found.counts) + 1 <= 22
    assert found.edges[0] <= x.min() and found.edges[-1] > x.max()
    assert sum(histogram([0.0, 0.0]).counts) == 2


def test_correlations_are_those_of_scipy_and_inside_prompts_forget_the_prompt() -> None:
    rng = np.random.default_rng(5)
    level, group = rng.normal(size=60).repeat(2) * 5, np.arange(60).repeat(2)
    score, other = level + rng.normal(size=120), -level + rng.normal(size=120)
    found = correlation(score, other, group, group, n=100)
    assert found.overall.value == pytest.approx(spearmanr(score, other).statistic)
    assert found.overall.value < -0.8 < -0.3 < found.within.value
    assert found.overall.low <= found.overall.value <= found.overall.high
    same = correlation(score, score**3, group, group, n=50)
    assert same.overall.value == pytest.approx(1.0)
    constant = correlation(score, np.ones(120), group, group, n=10)
    assert math.isnan(constant.overall.value) and math.isnan(constant.within.value)


def test_prompts_with_one_response_say_nothing_of_what_is_within_prompts() -> None:
    rng = np.random.default_rng(7)
    score, other, group = rng.normal(size=40), rng.normal(size=40), np.arange(20).repeat(2)
    alone = (np.r_[score, rng.normal(size=30)], np.r_[other, rng.normal(size=30)], np.r_[group, 20:50])
    assert correlation(*alone, alone[2], n=20).within == correlation(score, other, group, group, n=20).within
    nothing = correlation(score, other, range(40), range(40), n=20)
    assert math.isnan(nothing.within.value) and not math.isnan(nothing.overall.value)


def test_the_page_the_record_and_the_figures_are_there_and_repeat(tmp_path: Path) -> None:
    about = {"model": "rm|x", "data": "pairs.jsonl"}
    pages = [
        reward_page.write(made(), tmp_path / name, title="Reward model rm", about=about, remarks=["Mind a<b."])
        for name in "ab"
    ]
    text = pages[0].read_text(encoding="utf-8")
    for word in (
        "accuracy",
        "NLL",
        "calibration error",
        "length, within prompts",
        "gold, all responses",
        "Mind a\\<b.",
    ):
        assert word in text
    names = ("card.json", "README.md", "calibration.svg", "gap.svg", "margins.svg")
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    record = json.loads((tmp_path / "a" / "card.json").read_text(encoding="utf-8"))
    assert record["about"] == about and record["accuracy"]["level"] == 0.95
    assert sum(b["pairs"] for b in record["bins"]) == record["pairs"] == 400


def test_what_is_not_known_is_null_and_a_dash(tmp_path: Path) -> None:
    card = reward_card(
        [0.5, 0.1], [0, 0], "ab", score=[0.5, 0, 0.1, 0], length=[5] * 4, group=[0, 0, 1, 1], response_keys="aabb", n=20
    )
    assert as_record(card)["length"]["overall"]["value"] is None and as_record(card)["gold"] is None
    page = reward_page.write(card, tmp_path, title="T", about={}).read_text(encoding="utf-8")
    assert "| length, all responses | – |" in page and "gold" not in page


def test_the_verdict_compares_with_chance_and_with_length() -> None:
    good = reward_page.verdict(made(2000))
    assert "better than chance" in good and "better than picking the longer response" in good
    rng = np.random.default_rng(6)
    m, longer = rng.normal(size=100), np.ones(100)
    same = {"score": m, "length": m, "group": range(100), "response_keys": range(100)}
    poor = reward_page.verdict(reward_card(m, longer, range(100), **same, n=100))
    assert "not shown to be better than chance" in poor and "worse than picking the longer" in poor


def judged(margin: np.ndarray, longer: np.ndarray, keys: list[int]) -> str:
    each = {"score": margin, "length": np.arange(len(margin)), "group": keys, "response_keys": keys}
    return reward_page.verdict(reward_card(margin, longer, keys, **each, n=200))


def test_the_lead_over_length_is_paired_and_few_questions_show_nothing() -> None:
    longer = np.where(np.arange(300) % 100 < 64, 1.0, -1.0)
    margin = longer.copy()
    margin[np.flatnonzero(longer < 0)[:12]] = 1.0  # right wherever length is, and 12 times more
    paired = judged(margin, longer, list(range(300)))
    assert "better than picking the longer response" in paired and "a lead of 0.040 [0.0" in paired
    few = judged(np.ones(2), np.ones(2), [0, 0])
    assert "with fewer than 20 questions this is not shown" in few and "1.000 [0.207, 1.000]" in few
