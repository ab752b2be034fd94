"""Fitting and judging the rule on made tables: where one feature decides it finds that, where none does it says so."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefloop.advice import regret, rule, trees, value
from prefloop.advice.actions import ACTIONS
from prefloop.advice.fit import conformal, fitted, logistic, regressed, switches
from prefloop.advice.regret import (
    ADVISORS,
    by_feature,
    calibration,
    constant,
    judged,
    lead,
    oracle,
    ruled,
    shipped,
)
from prefloop.advice.rule import Status, advise
from prefloop.advice.table import Table
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.core.errors import DataError

NAMES = ("beyond", "votes", "learned", "reach", "winner_short")
ON_POLICY = switches(tuple(ACTIONS))[:, 1]


def made(
    n: int, *, planted: float, seed: int = 0, noise: float = 0.03, worlds: tuple[str, ...] = ("rotated",)
) -> Table:
    """Outcomes in which `beyond` decides between on-policy and offline actions, by so much, and nothing else does."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, len(NAMES)))
    value = 0.5 + planted * x[:, :1] * (2 * ON_POLICY - 1) + 0.02 * np.arange(len(ACTIONS)) / len(ACTIONS)
    value = value + 0.02 * rng.normal(size=value.shape)  # what no feature tells
    values = value[..., None] + 0.03 * rng.normal(size=(*value.shape, 8))
    broke = (rng.random(values.shape) < 0.05).astype(float)
    names = tuple(f"{worlds[i % len(worlds)]}-{i:04}" for i in range(n))
    return Table(names, tuple(name.rpartition("-")[0] for name in names), NAMES, x, values, broke)


PLANTED, NOTHING = made(120, planted=0.15), made(120, planted=0.0)


# ------------------------------------------------------------------------------------------------------------ the fit


def test_a_planted_feature_is_found_and_regret_is_near_zero() -> None:
    scores = judged(PLANTED, {"rule": ruled, "constant": constant, "oracle": oracle})
    assert scores["rule"].regret.value < 0.05 < 0.1 < scores["constant"].regret.value
    assert lead(scores["rule"], scores["constant"]).low > 0
    assert abs(scores["oracle"].regret.value) < 0.02
    fit = regressed(PLANTED)
    slopes = fit.gain[:, 1:] / fit.scale
    assert slopes[:, 0] == pytest.approx(0.15 * (2 * ON_POLICY - 1), abs=0.02)
    assert np.abs(slopes[:, 1:]).max() < 0.02


def test_where_no_feature_matters_nothing_is_shipped() -> None:
    status = regret.tested(NOTHING, advisors={})
    assert not status.beats and status.refusal is not None
    advice = advise(replace(fitted(NOTHING), status=status), {"beyond": 2.0}, tuple(ACTIONS))
    assert isinstance(advice.action, CannotTell) and "did not beat" in str(advice.action) and not advice.ranked
    assert status.regret["rule"][0] == pytest.approx(status.regret["best constant"][0], abs=0.02)


def test_what_beats_the_best_constant_is_shipped_with_its_table() -> None:
    status = shipped(PLANTED).status
    assert status.beats and status.refusal is None and set(status.regret) == {*ADVISORS}
    assert status.regret["rule"][0] <= status.regret["best constant"][0] / 2
    assert status.coverage == pytest.approx(0.8, abs=0.06)


def test_too_few_problems_say_so_whatever_they_show() -> None:
    few = PLANTED[np.arange(40)]
    status = regret.tested(few, advisors={})
    assert status.beats and "40 problems" in str(status.refusal) and "needs 100" in str(status.refusal)
    assert isinstance(advise(replace(fitted(few), status=status), {}, tuple(ACTIONS)).action, CannotTell)
    assert isinstance(advise(None, {}, tuple(ACTIONS)).action, CannotTell)


def test_intervals_cover_problems_that_the_fit_had_not_seen() -> None:
    seen = calibration(PLANTED)
    assert seen.coverage == pytest.approx(0.8, abs=0.06) and seen.level == 0.8
    assert seen.right > 0.75


def test_half_widths_are_those_of_split_conformal_prediction() -> None:
    errors = np.arange(1.0, 10.0)[:, None] * np.array([1.0, -2.0])
    assert conformal(errors, 0.8) == pytest.approx([8.0, 16.0])  # the ⌈10 · 0.8⌉-th of nine
    assert np.isinf(conformal(errors[:3], 0.8)).all()


def test_logistic_regression_finds_the_share_that_breaks() -> None:
    rng = np.random.default_rng(0)
    x = np.stack([np.ones(4000), rng.normal(size=4000)], 1)
    share = rng.binomial(8, 1 / (1 + np.exp(-(-1.0 + 0.7 * x[:, 1])))) / 8
    assert logistic(x, share, 8, free=1) == pytest.approx([-1.0, 0.7], abs=0.08)
    assert np.isfinite(logistic(x, np.zeros(4000), 8, free=1)).all()


# --------------------------------------------------------------------------------------------------------- the advice


def sure(table: Table = PLANTED) -> rule.Rule:
    return replace(fitted(table), status=Status(problems=len(table), beats=True))


def test_advice_names_the_feature_that_decides_and_what_would_change_it() -> None:
    far = {**dict.fromkeys(NAMES, 0.0), "beyond": 2.0}
    advice = advise(sure(), far, tuple(ACTIONS))
    assert isinstance(advice.action, str) and ACTIONS[advice.action].switches.on_policy
    offline = [name for name in ACTIONS if not ACTIONS[name].switches.on_policy]
    against = advise(sure(), {**far, "beyond": -2.0}, tuple(ACTIONS))
    assert against.action in offline
    two = advise(sure(), far, (advice.action, offline[-1]))
    assert two.because[0][0] == "beyond" and two.flips[0].feature == "beyond"
    assert two.flips[0].at == pytest.approx(0.0, abs=0.5) and two.flips[0].away < 0
    top = advice.ranked[0]
    assert top.action == advice.action and top.low < top.value < top.high
    assert top.sure is not None and top.sure > 0.75


def test_the_interval_is_where_the_value_was_on_unseen_problems() -> None:
    made_rule = sure()
    advice = advise(made_rule, dict.fromkeys(NAMES, 0.0), tuple(ACTIONS))
    place = made_rule.actions.index(advice.ranked[0].action)
    assert advice.ranked[0].high - advice.ranked[0].low == pytest.approx(2 * made_rule.width[place])


def test_within_the_error_nothing_is_advised() -> None:
    """Between the two sides nothing tells the actions apart."""
    advice = advise(sure(), dict.fromkeys(NAMES, 0.0), tuple(ACTIONS))
    default = sure().default
    assert advice.action == default or "within the rule's error" in str(advice.action)


def test_only_what_the_data_can_feed_is_advised() -> None:
    able = ("dpo-offline", "dpop-offline")
    advice = advise(sure(), {**dict.fromkeys(NAMES, 0.0), "beyond": 3.0}, able)
    assert {one.action for one in advice.ranked} == set(able)
    assert isinstance(advise(sure(), {}, ()).action, CannotTell)


def test_what_is_not_known_is_filled_in_and_what_is_strange_is_told() -> None:
    advice = advise(sure(), {"beyond": 2.0, "votes": 50.0}, tuple(ACTIONS))
    assert set(advice.filled) == {"learned", "reach", "winner_short"} and advice.outside == ("votes",)


def test_an_action_that_breaks_is_not_advised() -> None:
    values, broken, noise = np.array([0.5, 0.9, 0.7]), np.array([0.0, 0.8, 0.1]), np.zeros((3, 3))
    assert rule.chosen(values, broken, noise, ("a", "b", "c"), "a") == ("c", True)
    assert rule.chosen(values, broken, noise + 1, ("a", "b", "c"), "a") == ("a", False)
    assert rule.chosen(values, 0 * broken, noise, ("a", "b", "c"), "a", able=("a", "c")) == ("c", True)
    assert rule.chosen(-values, 0 * broken, noise + 1, ("a", "b", "c"), "a") == ("a", True)


def test_a_rule_is_the_same_from_its_file(tmp_path: Path) -> None:
    one, file = sure(), tmp_path / "rule.json"
    rule.save(one, file)
    again, status = rule.load(file)
    assert again is not None and status == one.status
    assert again.values(PLANTED.features) == pytest.approx(one.values(PLANTED.features))
    assert advise(again, {"beyond": 2.0}, tuple(ACTIONS)) == advise(one, {"beyond": 2.0}, tuple(ACTIONS))
    file.write_text('{"format": 1}')
    with pytest.raises(DataError, match="not a rule"):
        rule.load(file)


def test_the_shipped_rule_says_how_it_was_tested() -> None:
    shipped, status = rule.load()
    if shipped is None:
        assert status.refusal is not None  # nothing has been fitted: nothing is advised
    else:
        assert set(shipped.actions) == set(ACTIONS) and {"rule", "best constant"} <= set(status.regret)


# -------------------------------------------------------------------------------------------------------------- regret


def test_regret_is_the_share_of_the_best_that_is_missed() -> None:
    values = np.array([[[0.8] * 4, [0.4] * 4], [[0.0] * 4, [0.01] * 4]])
    weights = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert value.regret(values, weights)[0] == pytest.approx(0.5)
    assert math.isnan(value.regret(values, weights)[1])  # nothing is gained by any action
    assert value.regret(values[:1], np.array([[0.5, 0.5]]))[0] == pytest.approx(0.25)


def test_the_best_constant_loses_least_where_regret_has_a_meaning() -> None:
    """`dpo` is better on two problems with little to win, `rloo` on one with more, and therefore in the mean."""
    values = np.full((4, len(ACTIONS), 8), 0.01)
    at = {name: i for i, name in enumerate(ACTIONS)}
    values[:3, at["dpo"]], values[:2, at["rloo"]], values[2, at["rloo"]] = 0.1, 0.06, 0.19
    table = replace(PLANTED[np.arange(4)], values=values)
    assert table.value[:, at["rloo"]].mean() > table.value[:, at["dpo"]].mean()
    assert value.best_constant(table) == "dpo"
    values[:3] = 0.02  # too little on any problem: the highest mean
    values[3, at["rwr-offline"]] = 0.04
    assert value.best_constant(table) == "rwr-offline"


def test_the_best_of_noise_is_not_better_than_any_action() -> None:
    """Chosen and scored on the same seeds, the best of eight equal actions would seem 0.07 better."""
    values = 0.5 + 0.1 * np.random.default_rng(0).normal(size=(400, 8, 8))
    each = value.regret(values, regret.picks([0] * 400, 8))
    assert abs(each.mean()) < 3 * each.std() / 20


def test_published_rules_choose_by_what_they_say() -> None:
    low, high = made(8, planted=0.1), made(8, planted=0.1)
    low.features[:] = -1.0
    high.features[:] = 1.0
    for name, below, above in (
        ("axolotl's decision tree", "rloo", "dpo-offline"),
        ("the paper's Fig. 1", "best-of-n-offline", "dpo"),
        ("stage boundary (2508.10530)", "dpo-offline", "dpo"),
    ):
        for table, action in ((low, below), (high, above)):
            assert (ADVISORS[name](PLANTED, table).argmax(1) == table.actions.index(action)).all(), name


def test_worlds_and_the_corner_are_left_out_whole() -> None:
    table = made(60, planted=0.1, worlds=("rotated", "sequences", "lengths"))
    for train, test in regret.worlds(table):
        assert {table.worlds[i] for i in train}.isdisjoint({table.worlds[i] for i in test})
    ((train, test),) = regret.corner(table)
    assert len(train) + len(test) == 60
    assert table.features[test, 0].min() > np.median(table.features[:, 0])
    scores = judged(table, {"rule": ruled, "constant": constant}, regret.worlds(table))
    assert scores["rule"].regret.units == 60


def test_the_learning_curve_falls_to_a_plateau() -> None:
    curve = regret.learning_curve(PLANTED, (12, 90), repeats=4)
    assert [size for size, *_ in curve] == [12, 90]
    assert curve[1][1] <= curve[0][1] + 0.01 and curve[1][1] < 0.05


# --------------------------------------------------------------------------------------------------------------- trees


def test_a_tree_finds_the_split_and_boosting_the_values() -> None:
    grown = trees.grown(PLANTED.features, PLANTED.value, 3, 8)
    assert isinstance(grown, trees.Split) and NAMES[grown.feature] == "beyond" and abs(grown.at) < 0.4
    ways = trees.paths(grown, NAMES)
    assert len(ways) <= 8 and sum(way.leaf.rows for way in ways) == len(PLANTED)
    assert all(way.conditions[0].startswith("beyond") for way in ways)
    assert ON_POLICY[ways[-1].place] and not ON_POLICY[ways[0].place]
    missed = trees.summed(trees.boosted(PLANTED.features, PLANTED.value), PLANTED.features) - PLANTED.value
    assert np.sqrt((missed**2).mean()) < 0.05


def test_a_tree_on_nothing_is_a_leaf_or_splits_hardly() -> None:
    flat = trees.grown(NOTHING.features, np.ones((120, 8)), 3, 8)
    assert isinstance(flat, trees.Leaf)
    unknown = np.full((120, 5), np.nan)
    assert isinstance(trees.grown(unknown, PLANTED.value, 3, 8), trees.Leaf)


def test_a_feature_and_a_number_are_a_rule() -> None:
    advisor = by_feature("beyond", 0.0, "dpo", "dpo-offline")
    assert judged(PLANTED, {"a": advisor})["a"].regret.value < 0.06


def test_a_feature_far_outside_counts_as_at_the_bound() -> None:
    one = fitted(PLANTED)
    first = np.arange(len(NAMES)) == 0
    inside, outside = (one.mean + far * one.scale * first for far in (3, 30))
    assert np.allclose(one.values(outside), one.values(inside))
    assert np.allclose(one.broken(outside), one.broken(inside))
    wild = replace(PLANTED, features=np.where((np.arange(120) == 0)[:, None] & first, 1e6, PLANTED.features))
    assert judged(wild, {"rule": ruled})["rule"].regret.value < judged(wild, {"c": constant})["c"].regret.value
