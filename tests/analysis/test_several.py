"""The best of several answers and their variety: estimators are exact in the mean, by enumeration of all samples."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from made_evidence import dpo
from prefloop.analysis.geometry import reach
from prefloop.analysis.several import Several, distinct, overlap
from prefloop.analysis.signs import best_of

ANSWERS = {("a", "b", "a"): 0.5, ("a", "c"): 0.3, (): 0.2}
REWARDS = {0.0: 0.6, 0.5: 0.3, 2.0: 0.1}


def samples(law: dict, count: int):  # type: ignore[no-untyped-def, type-arg]
    """All samples of so many, with their probabilities."""
    for drawn in product(law.items(), repeat=count):
        yield [x for x, _ in drawn], math.prod(p for _, p in drawn)


def several(before: object, after: object) -> Several:
    tables = [np.asarray(x, dtype=float) for x in (before, after)]
    return Several("gold", *tables, range(len(tables[0])))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_best_of_k_is_unbiased(size: int) -> None:
    exact = sum(max(drawn) * p for drawn, p in samples(REWARDS, size))
    seen = sum(several([drawn], [drawn]).of(size).before.value * p for drawn, p in samples(REWARDS, 4))
    assert seen == pytest.approx(exact)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pass_at_k_is_unbiased(size: int) -> None:
    """Of a reward of at least ½, which an answer has with probability 0.4."""
    seen = sum(several([drawn], [drawn]).of(size, 0.5).after.value * p for drawn, p in samples(REWARDS, 4))
    assert seen == pytest.approx(1 - 0.6**size)


def test_pass_at_k_is_that_of_chen() -> None:
    rewards = np.random.default_rng(0).random((30, 8))
    for size in (1, 2, 4, 8):
        known, seen = reach(rewards, 0.7, [size])[0], several(rewards, rewards).of(size, 0.7).before
        assert (seen.value, seen.se) == pytest.approx((known.value, known.se))


def test_overlap_is_unbiased_for_two_answers() -> None:
    exact = sum(overlap(pair) * p for pair, p in samples(ANSWERS, 2))
    by_hand = 0.25 + 0.09 + 0.04 + 2 * 0.5 * 0.3 * 2 / 5  # equal answers share all, and two of them one token
    assert exact == pytest.approx(by_hand)
    assert sum(overlap(drawn) * p for drawn, p in samples(ANSWERS, 4)) == pytest.approx(exact)


def test_what_is_distinct() -> None:
    assert distinct([["a", "b", "a"], ["a", "b"]]) == pytest.approx(2 / 3)
    assert distinct([["a", "b"], ["b"]], n=1) == pytest.approx(2 / 3)
    assert math.isnan(distinct([["a"], []])) and math.isnan(overlap([["a"]]))


def test_the_change_is_of_the_same_prompts() -> None:
    """Prompts differ far more than training changes them."""
    base = np.arange(20.0)[:, None] * np.ones(4)
    row = several(base, base + 0.1).of(2)
    assert row.change.value == pytest.approx(0.1) and row.change.se < 1e-9 and row.before.se > 1
    assert several(base, base).of(2).z == 0 and several(base, base + 1).of(2).z == math.inf


def test_a_best_that_falls_while_the_mean_rises_is_found() -> None:
    rng, level = np.random.default_rng(1), np.arange(40)[:, None] % 4
    wide, narrow = level + rng.normal(size=(40, 8)), level + 0.5 + 0.1 * rng.normal(size=(40, 8))
    found = best_of(replace(dpo(), several=several(wide, narrow)))
    assert found is not None and found.score > 2 and "of the best of 8" in found.said
    for sound in (several(wide, wide + 0.5), several(wide, wide[::-1]), several(narrow, wide)):
        reading = best_of(replace(dpo(), several=sound))
        assert reading is not None and reading.score < 2
    assert best_of(dpo()) is None
    why = best_of(replace(dpo(), notes={"several": "one answer"}))
    assert why is not None and math.isnan(why.score) and why.said == "one answer"
