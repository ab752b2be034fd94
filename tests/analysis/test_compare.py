"""The one rule for "is it real?": against SciPy, by enumeration, and by simulation."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from prefloop.analysis.compare import LEVEL, Difference, difference, paired

FLOATS = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=3, max_size=30)


@given(FLOATS.filter(lambda x: len(set(x)) > 1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_that_of_a_paired_t_test(x: list[float], level: float) -> None:
    known = stats.ttest_rel(x, [0.0] * len(x)).confidence_interval(level)
    seen = difference(x, unit="seeds", level=level)
    assert (seen.low, seen.high) == pytest.approx((known.low, known.high), rel=1e-9, abs=1e-9)
    assert (seen.value, seen.n, seen.unit, seen.level) == (pytest.approx(np.mean(x)), len(x), "seeds", level)


def test_by_hand() -> None:
    seen = difference([1.0, 2.0, 6.0], unit="seeds")  # mean 3, s² = 7, t₂ = 4.302653
    assert seen.high - 3.0 == pytest.approx(4.302653 * math.sqrt(7 / 3), abs=1e-5) == 3.0 - seen.low
    assert seen.level == LEVEL == 0.95


def ends(low: float, high: float, higher: bool = True) -> Difference:
    return Difference((low + high) / 2, low, high, 0.95, 9, "prompts", higher)


VERDICTS = [
    (ends(0.1, 0.3), "better"),
    (ends(-0.3, -0.1), "worse"),
    (ends(-0.1, 0.3), "not significantly different"),
    (ends(0.0, 0.3), "not significantly different"),
    (ends(-0.3, 0.0), "not significantly different"),
    (ends(0.0, 0.0), "not significantly different"),
    (ends(0.1, 0.3, higher=False), "worse"),
    (ends(-0.3, -0.1, higher=False), "better"),
    (ends(-0.1, 0.3, higher=False), "not significantly different"),
    (ends(math.nan, math.nan), "not significantly different"),
]


@pytest.mark.parametrize(("seen", "verdict"), VERDICTS)
def test_verdicts(seen: Difference, verdict: str) -> None:
    assert seen.verdict == verdict
    assert seen.is_significant is (verdict != "not significantly different")


@given(FLOATS)
def test_swapping_the_two_turns_everything_round(x: list[float]) -> None:
    there, back = difference(x, unit="seeds"), difference([-v for v in x], unit="seeds")
    turned = (-there.high, -there.low, -there.value)
    assert (back.low, back.high, back.value) == pytest.approx(turned, nan_ok=True)
    other = {"better": "worse", "worse": "better"}
    assert back.verdict == other.get(there.verdict, there.verdict)
    assert difference(x, unit="seeds", higher_is_better=False).verdict == back.verdict


@given(FLOATS, st.floats(0.1, 10))
def test_units_of_the_reward_do_not_matter(x: list[float], scale: float) -> None:
    assert difference([v * scale for v in x], unit="seeds").verdict == difference(x, unit="seeds").verdict


def test_prompts_are_paired_by_name_whatever_their_order() -> None:
    a, b = {"x": 1.0, "y": 5.0, "z": 3.0}, {"z": 2.5, "y": 4.0, "x": 0.5, "only b": 99.0}
    assert paired(a, b, unit="prompts") == difference([0.5, 1.0, 0.5], unit="prompts")
    assert paired(b, a, unit="prompts", higher_is_better=False, level=0.9) == difference(
        [-0.5, -1.0, -0.5], unit="prompts", higher_is_better=False, level=0.9
    )


def test_pairing_takes_out_what_both_share() -> None:
    """Prompts differ by far more than the two runs do; paired, the difference is plain."""
    rng = np.random.default_rng(0)
    base = rng.normal(scale=10, size=40)
    a, b = (dict(enumerate(base + shift + 0.1 * rng.normal(size=40))) for shift in (0.2, 0.0))
    assert paired(a, b, unit="prompts").verdict == "better"
    assert stats.ttest_ind(list(a.values()), list(b.values())).pvalue > 0.5


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_false_alarms_are_as_few_as_the_level_says(n: int) -> None:
    """Two-sided 5 % for any number of normal seeds, however few: 4,000 trials have a standard error of 0.34 %."""
    x = np.random.default_rng(n).normal(size=(4000, n))
    rate = np.mean([difference(row, unit="seeds").is_significant for row in x])
    assert 0.04 < rate < 0.06


def test_answers_to_one_prompt_count_once() -> None:
    keys = np.repeat(np.arange(12), 5)
    x = np.random.default_rng(1).normal(size=12)
    seen = difference(x[keys], unit="prompts", clusters=keys)
    alone = difference(x, unit="prompts")
    assert seen.n == 12
    assert (seen.low, seen.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.parametrize("n", range(1, 9))
def test_equal_differences_are_judged_by_their_signs(n: int) -> None:
    """n fair coins show one side with probability 2 · 2⁻ⁿ, which is below 5 % from n = 6 on."""
    seen = difference([0.1] * n, unit="seeds")
    if n < 6:
        assert math.isnan(seen.low) and math.isnan(seen.high) and not seen.is_significant
    else:
        assert (seen.low, seen.high) == pytest.approx((0.1, 0.1)) and seen.verdict == "better"
    assert difference([-0.1] * n, unit="seeds").verdict == ("worse" if n > 5 else "not significantly different")
    assert difference([0.1] * n, unit="seeds", level=0.5).is_significant is (n > 2)


@pytest.mark.parametrize(("spread", "known"), [(0.8, False), (1.0, False), (1.5, True)])
def test_a_spread_that_is_rounding_is_none(spread: float, known: bool) -> None:
    """Two numbers that are 2 s apart have the standard error s; up to 1e-12 of their size it is no spread."""
    seen = difference([1e12, 1e12 - 2 * spread], unit="seeds")
    assert math.isnan(seen.low) is not known


def test_a_difference_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ends(0.1, 0.3).value = 9.0  # type: ignore[misc]


def test_more_is_better_unless_it_is_a_cost() -> None:
    assert Difference(0.2, 0.1, 0.3, 0.95, 9, "prompts").verdict == "better"
    assert difference([0.1] * 6, unit="seeds").higher_is_better is True


def test_no_difference_at_all_is_known_to_be_none() -> None:
    seen = difference([0.0, 0.0], unit="seeds")
    assert (seen.low, seen.high, seen.verdict) == (0.0, 0.0, "not significantly different")
    assert math.isnan(difference([0.0], unit="seeds").low)


def test_in_words() -> None:
    assert str(ends(0.25, 0.75)) == "+0.50 (95 % interval +0.25 to +0.75, 9 prompts): better"
    assert str(ends(-0.71, 0.24)) == "−0.23 (95 % interval −0.71 to +0.24, 9 prompts): not significantly different"
    assert str(ends(0.001, 1.2)) == "+0.600 (95 % interval +0.001 to +1.200, 9 prompts): better"  # not from 0
    assert str(difference([0.5], unit="seed")) == "+0.500 (no interval, 1 seed): not significantly different"


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: difference([], unit="seeds"), "one or more finite numbers"),
        (lambda: difference([[1.0]], unit="seeds"), "one or more finite numbers"),
        (lambda: difference([1.0, math.nan], unit="seeds"), "one or more finite numbers"),
        (lambda: difference([1.0], unit="seeds", level=1.0), "between 0 and 1, not 1"),
        (lambda: difference([1.0], unit="seeds", level=0.0), "between 0 and 1, not 0"),
        (lambda: paired({"a": 1.0}, {"b": 1.0}, unit="prompts"), "no prompts in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: object, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        call()  # type: ignore[operator]
