"""Verdicts: words by hand, intervals against scipy, and laws of sign, order, scale and threshold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from prefloop.analysis.boundaries import student
from prefloop.analysis.decisions import Rule, decide, ends, false_discovery, stop, words

RULE = Rule(0.5)
EQUAL = Rule(0.5, sense="equal")
Z = 2.0
EFFECTS = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=12, max_size=40)


def interval(x: Any, z: float = Z) -> tuple[float, float]:
    low, high = ends(np.array(x), z)
    return float(low), float(high)


def normal(mean: float, n: int, sd: float = 1.0, seed: int = 0) -> np.ndarray:
    """n effects with exactly this mean and standard deviation."""
    x = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (x - x.mean()) / x.std(ddof=1)


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"block": 0}, "blocks of 0"),
        ({"first": 1}, "from 1"),
        ({"most": 10}, "to 10"),
        ({"most": 41}, "to 41"),
        ({"level": 1.0}, "level"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Rule(**{"threshold": 0.1, **wrong})


@pytest.mark.parametrize("effects", [[1.0], [], [1.0, math.nan], [[1.0, 2.0]]])
def test_effects_are_two_or_more_finite_numbers(effects: list[Any]) -> None:
    for judge in (decide, stop):
        with pytest.raises(ValueError, match="finite numbers"):
            judge(effects, RULE)


@pytest.mark.parametrize(
    "low, high, more, equal",
    [
        (0.6, 0.9, "supported", "contradicted"),
        (0.5, 0.9, "undecided", "undecided"),  # the ends count as outside
        (0.1, 0.4, "smaller than claimed", "supported"),
        (0.1, 0.9, "undecided", "undecided"),
        (-0.4, 0.4, "equivalent", "supported"),
        (-0.4, -0.1, "equivalent", "supported"),
        (-0.9, -0.1, "contradicted", "undecided"),
        (-0.9, -0.6, "contradicted", "contradicted"),
        (-0.9, 0.1, "undecided", "undecided"),
        (-math.inf, math.inf, "undecided", "undecided"),
    ],
)
def test_words_of_intervals(low: float, high: float, more: str, equal: str) -> None:
    assert (words(low, high, RULE).item(), words(low, high, EQUAL).item()) == (more, equal)


def test_words_of_many_intervals_at_once() -> None:
    assert words(np.array([0.6, -0.4]), np.array([0.9, 0.4]), RULE).tolist() == ["supported", "equivalent"]


def test_symmetric_effects_have_students_interval() -> None:
    x = np.concatenate([normal(0, 8), -normal(0, 8)]) + 0.3
    known = stats.ttest_1samp(x, 0).confidence_interval(1 - 2 * stats.norm.sf(Z))
    assert interval(x) == pytest.approx(tuple(known), abs=1e-6)


def test_skewed_effects_have_halls_end_where_it_is_wider() -> None:
    x = np.random.default_rng(0).exponential(size=14)
    n, low, high = len(x), *interval(x)
    skew = float(stats.skew(x)) * ((n - 1) / n) ** 1.5  # the third moment over s³
    t = student(Z, n) / math.sqrt(n)
    assert low == pytest.approx(x.mean() - t * x.std(ddof=1))  # the short tail keeps Student's end
    studentised = (x.mean() - high) / x.std(ddof=1)
    cubic = studentised + skew * studentised**2 / 3 + skew**2 * studentised**3 / 27 + skew / (6 * n)
    assert cubic == pytest.approx(-t) and high > x.mean() + t * x.std(ddof=1)


@given(EFFECTS, st.floats(0, 2))
def test_a_flip_of_signs_flips_the_interval(x: list[float], se: float) -> None:
    low, high = ends(np.array(x), Z, se)
    turned = ends(-np.array(x), Z, se)
    assert (-high, -low) == pytest.approx(turned, abs=1e-4)


@given(EFFECTS, st.randoms(use_true_random=False))
def test_the_order_of_seeds_does_not_matter(x: list[float], random: Any) -> None:
    shuffled = random.sample(x, len(x))
    assert tuple(map(float, ends(np.array(shuffled), Z))) == pytest.approx(
        tuple(map(float, ends(np.array(x), Z))), abs=1e-6
    )


@given(EFFECTS, st.floats(0.1, 10), st.floats(-5, 5))
def test_intervals_follow_scale_and_shift(x: list[float], scale: float, shift: float) -> None:
    low, high = interval(x)
    assume(math.isfinite(low) and high - low > 1e-3)
    assert interval(scale * np.array(x) + shift) == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-3)


@given(EFFECTS, st.floats(0.1, 4), st.floats(0, 4), st.floats(0, 1))
def test_intervals_grow_with_the_quantile_and_the_choice(x: list[float], z: float, more: float, se: float) -> None:
    low, high = ends(np.array(x), z)
    wider, higher = ends(np.array(x), z + more, se)
    assert wider <= low + 1e-9 and high <= higher + 1e-9


@given(EFFECTS, st.floats(0.05, 5), st.floats(0.1, 1))
def test_verdicts_are_monotone_in_the_threshold(x: list[float], t: float, share: float) -> None:
    low, high = ends(np.array(x), Z)
    large, small = Rule(t), Rule(t * share)
    if words(low, high, large) == "supported":
        assert words(low, high, small) == "supported"
    if words(low, high, small) in ("equivalent", "smaller than claimed"):
        assert words(low, high, large) in ("equivalent", "smaller than claimed")
    if words(low, high, small) == "contradicted":
        assert words(low, high, large) in ("contradicted", "equivalent")


@settings(max_examples=25)
@given(EFFECTS)
def test_p_says_what_the_interval_says(x: list[float]) -> None:
    found = decide(x, RULE)
    assert 0 <= found.p <= 1 and 0 <= found.p_verdict <= 1
    assume(abs(found.p - 0.05) > 1e-6)
    assert (found.p < 0.05) is (found.sign != 0)
    turned = decide([-y for y in x], RULE)
    assert turned.p == pytest.approx(found.p, rel=1e-3, abs=1e-9) and turned.sign == -found.sign


@settings(max_examples=25)
@given(EFFECTS)
def test_a_verdict_has_its_p_and_no_verdict_has_none(x: list[float]) -> None:
    found = decide(x, RULE)
    assert found.p_verdict == pytest.approx(1) if found.verdict == "undecided" else found.p_verdict < 0.05 + 1e-9


@settings(max_examples=25)
@given(EFFECTS, st.sampled_from([RULE, EQUAL]))
def test_a_study_that_stops_has_a_verdict_or_no_seeds_left(x: list[float], rule: Rule) -> None:
    found = decide(x, rule)
    assert found.settled is stop(x, rule)
    assert found.settled or found.verdict == "undecided"
    if found.settled and found.n < rule.most:
        assert found.verdict != "undecided"


def test_large_effects_stop_early_and_small_ones_late() -> None:
    assert stop(normal(5, 12), RULE) and not stop(normal(5, 8), RULE)
    assert not stop(normal(0.9, 12), RULE)
    assert stop(normal(0.9, 40), RULE)
    assert stop(normal(0.0, 16, sd=0.3), RULE)  # equivalent


@pytest.mark.parametrize(
    "mean, sd, rule, verdict, reason",
    [
        (2.0, 1.0, RULE, "supported", "above 0.5"),
        (0.25, 0.1, RULE, "smaller than claimed", "positive, but below 0.5"),
        (0.0, 0.3, RULE, "equivalent", "between −0.5 and 0.5"),
        (-2.0, 1.0, RULE, "contradicted", "negative"),
        (0.5, 1.0, RULE, "undecided", "positive, and may lie on either side of 0.5"),
        (-0.1, 2.0, RULE, "undecided", "unknown sign"),
        (-0.1, 0.3, EQUAL, "supported", "between"),
        (2.0, 1.0, EQUAL, "contradicted", "larger than 0.5"),
    ],
)
def test_verdict_and_reason_at_the_last_seed(mean: float, sd: float, rule: Rule, verdict: str, reason: str) -> None:
    found = decide(normal(mean, 40, sd), rule)
    assert found.verdict == verdict and reason in found.reason and found.settled and found.n == 40
    assert found.interval.value == pytest.approx(mean)


def test_a_study_under_way_has_no_verdict() -> None:
    found = decide(normal(0.9, 16), RULE)
    assert (found.verdict, found.settled, found.sign) == ("undecided", False, 1)
    assert found.reason == "more seeds are wanted: 16 so far, of 12 to 40"


def test_a_cell_at_an_edge_enters_no_verdict() -> None:
    found = decide(normal(5, 40), RULE, edge=("dpo", "ppo"))
    assert (found.verdict, found.settled) == ("undecided", True) and found.p_verdict == pytest.approx(1)
    assert found.reason == "the best learning rate is at an edge of the range: dpo, ppo"
    assert decide(normal(5, 12), RULE, edge=("dpo",), no_headroom="all alike").verdict == "undecided"


def test_no_headroom_is_a_verdict_of_its_own() -> None:
    found = decide(normal(5, 40), RULE, no_headroom="all alike")
    assert (found.verdict, found.reason) == ("no headroom", "all alike")


def test_the_choice_of_rates_is_added_in_quadrature() -> None:
    x = np.concatenate([normal(0, 20), -normal(0, 20)])
    alone, both = decide(x, RULE), decide(x, RULE, choice_se=0.4)
    half = RULE.boundaries.last * 0.4
    assert both.interval.high == pytest.approx(math.hypot(alone.interval.high, half))
    assert alone.verdict == "equivalent" and both.verdict == "undecided"
    assert both.reason.endswith("±0.802 from the choice of learning rates")


def test_equal_effects_count_as_signs() -> None:
    assert decide([1.0] * 12, RULE).settled is False  # 2^−11 is more than the first boundary allows
    found = decide([1.0] * 16, RULE)
    assert (found.verdict, found.interval.low, found.interval.high) == ("supported", 1.0, 1.0)
    assert found.p == pytest.approx(RULE.boundaries.p(float(stats.norm.isf(2.0**-16))), rel=1e-6)
    assert decide([0.0] * 16, RULE).verdict == "equivalent"
    assert math.isinf(float(ends(np.ones(3), Z)[0]))


def test_false_discovery_by_hand() -> None:
    found = false_discovery({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert {k: x.bh for k, x in found.items()} == pytest.approx({"a": 0.04, "b": 0.16 / 3, "c": 0.16 / 3, "d": 0.5})
    harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert found["a"].by == pytest.approx(0.04 * harmonic) and found["d"].by == 1
    assert false_discovery({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_adjustment_keeps_order_and_never_lowers(p: list[float]) -> None:
    found = list(false_discovery({str(i): x for i, x in enumerate(p)}).values())
    assert all(x <= a.bh + 1e-12 and a.bh <= a.by + 1e-12 <= 1 + 1e-9 for x, a in zip(p, found, strict=True))
    by_p = [a.bh for _, a in sorted(zip(p, found, strict=True), key=lambda pair: pair[0])]
    assert by_p == sorted(by_p)
