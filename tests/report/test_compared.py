"""Comparisons of made-up cells: planted differences, equal methods, families, the frontier, sentences and the page."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from prefloop.analysis.compare import crossed, difference
from prefloop.core.errors import UserError
from prefloop.report.compared import MEASURES, Cell, Comparison, Need, compare, shared_measure
from prefloop.report.compared_page import render
from prefloop.report.compared_words import record, remarks, verdicts

NEEDS = {"held-out examples": Need(0), "reference": Need("sha", "tiny"), "reward": Need("length", "length")}


def cell(
    method: str,
    gain: float = 0.0,
    *,
    seeds: int = 4,
    prompts: int = 30,
    chance: int = 0,
    by: str = "reward",
    **needs: Need,
) -> Cell:
    """A method whose answers score `gain` more; prompts and seeds have effects that all methods share."""
    shared, own = np.random.default_rng(7), np.random.default_rng(chance)
    base = shared.normal(size=(seeds, prompts)) + shared.normal(size=(seeds, 1))
    table = base + gain + 0.2 * own.normal(size=(seeds, 1)) + 0.5 * own.normal(size=(seeds, prompts))
    scores = {s: {f"p{p}": float(x) for p, x in enumerate(row)} for s, row in enumerate(table)}
    paths = {s: [(0.0, 0.0), (1.0, 1.0 + gain), (3.0, float(row.mean()))] for s, row in enumerate(table)}
    costs = {"step": 100.0, "hours": 0.5}
    runs = tuple(f"{method}-{s}" for s in range(seeds))
    return Cell(f"{method} · {seeds} seeds", method, runs, {by: scores}, {by: NEEDS | needs}, {}, {by: paths}, costs)


def only(comparison: Comparison, place: int = 1):  # type: ignore[no-untyped-def]
    return comparison.families[0].rows[place]


def test_a_planted_difference_is_found() -> None:
    seen = compare([cell("dpo", chance=1), cell("rloo", 1.0, chance=2), cell("sft", -1.0, chance=3)])
    assert [row.gap.verdict for row in seen.families[0].others] == ["better", "worse"]
    (said,) = verdicts(seen)
    assert said == ("Against A (dpo · 4 seeds), by reward: B (rloo · 4 seeds) is better; C (sft · 4 seeds) is worse.")
    assert only(seen).gap == crossed(
        cell("rloo", 1.0, chance=2).scores["reward"], cell("dpo", chance=1).scores["reward"]
    )
    assert only(seen).better.value > 0.5 > only(seen, 2).better.value


def test_equal_methods_are_not_called_different() -> None:
    """One in twenty by chance: of 60 differences with four seeds at most eight."""
    pairs = ([cell(name, chance=2 * i + j).scores["reward"] for j, name in enumerate("ab")] for i in range(60))
    assert sum(crossed(a, b).is_significant for a, b in pairs) <= 8


def test_no_difference_comes_with_what_would_have_been_seen() -> None:
    seen = compare([cell("dpo", chance=1), cell("rloo", chance=2)])
    row, (said,) = only(seen), verdicts(seen)
    assert said.startswith("No difference between B (rloo · 4 seeds) and A (dpo · 4 seeds) is seen: reward ")
    assert said.endswith(f"4 seeds × 30 prompts; a difference of {row.visible:.2g} would have been seen.")
    assert row.visible > abs(row.gap.value)


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_say_nothing_on_the_method(seeds: int) -> None:
    seen = compare([cell("dpo", seeds=seeds, chance=1), cell("rloo", 2.0, seeds=seeds, chance=2)])
    (said,) = verdicts(seen)
    assert said.startswith("Cannot tell which method is better (") and "Of the trained models, B (rloo" in said
    assert only(seen).gap.unit == "prompts" and math.isnan(only(seen).reached.low)
    assert any("not about another seed" in text for text in remarks(seen))
    assert only(seen).better.low > 0.5  # of prompts


def test_without_anything_in_common_nothing_is_told() -> None:
    one = Cell("a", "a", ("a",), {"gold": {0: {"": 1.0}}}, {"gold": {}})
    other = replace(one, label="b", method="b", scores={"gold": {1: {"": 2.0}}})
    assert verdicts(compare([one, other])) == ["Cannot tell: the runs have no seeds in common."]
    same = replace(other, scores={"gold": {0: {"": 2.0}}})
    (said,) = verdicts(compare([one, same]))
    assert said == "Cannot tell: one seed in common, which gives no interval for gold reward (+1.000)."


@pytest.mark.parametrize(
    ("what", "need", "why"),
    [
        ("held-out examples", Need(1), "other held-out examples"),
        ("reward", Need("x", "sentiment"), "other reward (sentiment, not length)"),
        ("reference", Need("sha2", "other"), "other reference (other, not tiny)"),
    ],
)
def test_what_was_not_measured_alike_is_told_apart(what: str, need: Need, why: str) -> None:
    a, b, c = cell("dpo"), cell("rloo", 1.0, chance=1), cell("ppo", 9.0, chance=2, **{what: need})
    seen = compare([a, b, c])
    assert [row.cell.method for row in seen.families[0].rows] == ["dpo", "rloo"]
    assert [(one.method, reason) for one, reason in seen.apart] == [("ppo", f"{why} than dpo · 4 seeds")]
    assert any(f"C (ppo · 4 seeds) is not compared: {why}" in text for text in remarks(seen))
    with pytest.raises(UserError, match=re.escape(f"nothing to compare: dpo · 4 seeds: {flip(why)}")):
        compare([a, c])


def flip(why: str) -> str:
    """The same reason from the other side."""
    found = re.fullmatch(r"(.*) \((.*), not (.*)\)", why)
    return f"{found[1]} ({found[3]}, not {found[2]})" if found else why


def test_groups_that_were_measured_alike_are_compared_inside() -> None:
    other = Need("x", "sentiment")
    cells = [
        cell("dpo"),
        cell("dpo", reward=other),
        cell("rloo", 1.0, chance=1),
        cell("rloo", 1.0, chance=1, reward=other),
    ]
    seen = compare(cells)
    assert [[row.cell.letter for row in family.rows] for family in seen.families] == [["A", "C"], ["B", "D"]]
    assert any(text.startswith("The groups of A (dpo") for text in remarks(seen))


def test_gold_decides_before_the_reward_that_was_trained_on() -> None:
    gold = cell("dpo", by="gold")
    both = [
        replace(x, scores=x.scores | gold.scores, needs=x.needs | gold.needs)
        for x in (cell("a"), cell("b", reward=Need(2)))
    ]
    assert shared_measure(*both) == MEASURES[0]
    assert shared_measure(cell("a"), cell("b", reward=Need(2))) is None


@pytest.mark.parametrize("name", ["rloo", "rloo · 4 seeds", "rloo-2"])
def test_the_baseline_is_a_method_a_label_or_a_run(name: str) -> None:
    seen = compare([cell("dpo"), cell("rloo", 1.0, chance=1)], name)
    assert seen.families[0].baseline.letter == "B" and only(seen).gap.verdict == "worse"


def test_a_baseline_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(UserError, match="no run or method `rlo`") as error:
        compare([cell("dpo"), cell("rloo")], "rlo")
    assert "rloo" in str(error.value.fix)
    with pytest.raises(UserError, match="2 settings of `dpo`"):
        compare([cell("dpo"), replace(cell("dpo"), label="dpo · beta 1")], "dpo")


def test_at_matched_kl() -> None:
    a, b = cell("dpo", chance=1), cell("rloo", 0.5, chance=2)
    seen = compare([a, b])
    at_kl = only(seen).at_kl
    ends = [b.paths["reward"][s][-1][1] - a.paths["reward"][s][-1][1] for s in range(4)]
    assert (at_kl.kl, at_kl.low) == (3.0, 1.0) and at_kl.difference == difference(ends, unit="seeds")
    far = replace(b, paths={"reward": {s: [(0.0, 0.0), (8.0, 1.0)] for s in range(4)}})
    assert any("do not overlap" in text for text in remarks(compare([a, far])))


def test_costs_are_better_when_lower() -> None:
    low, high = (cell(name, gain, chance=i, by="loss") for i, (name, gain) in enumerate((("a", 0.0), ("b", 1.0))))
    row = only(compare([low, high]))
    assert row.gap.verdict == "worse" and row.gap.value > 0 and row.better.value < 0.5


def test_many_comparisons_come_with_their_false_alarms() -> None:
    cells = [cell(f"m{i}", chance=i) for i in range(7)]
    assert any("Of 6 comparisons" in text and "26%" in text for text in remarks(compare(cells)))


def test_the_page_has_the_numbers_of_the_record_and_escapes_names() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    cells = [replace(cell("dpo"), label=hostile), cell("rloo", 1.0, chance=1)]
    seen = compare(cells)
    page = render(seen, command="prefloop compare a b")
    embedded = re.search(r'<script type="application/json" id="comparison">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None and json.loads(embedded[1]) == json.loads(json.dumps(record(seen)))
    assert "<img" not in page and "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    gap = record(seen)["groups"][0]["cells"][1]["difference"]
    assert f"{gap['low']:+.2f}" in page and len(page.encode()) < 1_500_000
    assert all(sentence.replace("<", "&lt;").replace(">", "&gt;") in page for sentence in verdicts(seen))
