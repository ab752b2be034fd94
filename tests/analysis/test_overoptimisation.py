"""Over-optimisation on made-up curves: found where it is, at its step, and hardly ever where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from prefloop.analysis.overoptimisation import overoptimisation
from prefloop.report.data import load
from prefloop.report.findings import findings
from prefloop.report.page import write
from run_folders import make

Curve = NDArray[np.float64]
TRIALS = 200


def progress(n: int) -> Curve:
    return np.linspace(0.0, 1.0, n)


def alarms(n: int, proxy: Curve, gold: Curve, *, noise: float = 0.3, persistence: float = 0.0) -> float:
    """Share of noisy copies of two curves in which the rule finds over-optimisation."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        shocks = rng.normal(size=(2, n)) * noise
        for i in range(1, n):
            shocks[:, i] += persistence * shocks[:, i - 1]
        turn = overoptimisation(np.arange(n), proxy + shocks[0], gold + shocks[1])
        assert turn is not None
        found += turn.overoptimised
    return found / TRIALS


@pytest.mark.parametrize("n", [10, 40])
def test_false_alarms_are_rare(n: int) -> None:
    x = progress(n)
    harmless = {
        "flat": 0 * x,
        "rising": 3 * x,
        "saturating": 2 * (1 - np.exp(-4 * x)),
    }
    for name, gold in harmless.items():
        assert alarms(n, 5 * x, gold) <= 0.01, name
    assert alarms(n, -3 * x, -3 * x) <= 0.01  # both fall: the policy is broken, not the reward
    assert alarms(n, 5 * x, 0 * x, persistence=0.5) <= 0.05


@pytest.mark.parametrize(("n", "power"), [(10, 0.9), (40, 0.99)])
def test_a_gold_reward_that_turns_is_found(n: int, power: float) -> None:
    x = progress(n)
    assert alarms(n, 5 * x, 20 * x * (1 - x)) >= power


def test_the_step_is_where_gold_was_highest() -> None:
    x, rng = progress(60), np.random.default_rng(1)
    gold = np.where(x < 0.4, x, 0.8 - x) * 5
    steps = 10 * np.arange(60)
    turn = overoptimisation(steps, 4 * x + rng.normal(size=60) * 0.1, gold + rng.normal(size=60) * 0.1)
    assert turn is not None and turn.overoptimised and turn.step == pytest.approx(0.4 * 590, abs=40)
    assert turn.gold_bound < turn.gold_lost == pytest.approx(2.2, abs=0.2)  # smoothed
    assert turn.proxy_bound < turn.proxy_gained == pytest.approx(4 * 29 / 59, abs=0.1)


def test_curves_without_noise() -> None:
    x = progress(20)
    turned, rose, flat = (overoptimisation(20 * x, 2 * x, g) for g in (x * (1 - x), x, np.ones(20)))
    assert turned is not None and turned.overoptimised and turned.step == pytest.approx(10, abs=1.5)
    assert rose is not None and not rose.overoptimised and flat is not None and not flat.overoptimised


def test_scale_and_shift_of_either_curve_change_nothing() -> None:
    x, rng = progress(30), np.random.default_rng(2)
    proxy, gold = 5 * x + rng.normal(size=30) * 0.3, 8 * x * (1 - x) + rng.normal(size=30) * 0.3
    one, two = overoptimisation(x, proxy, gold), overoptimisation(x, 1e3 * proxy - 7, 1e-3 * gold + 2)
    assert one is not None and two is not None and one.overoptimised and two.overoptimised and one.step == two.step


def test_few_evaluations_give_no_verdict_and_bad_curves_are_refused() -> None:
    assert overoptimisation(range(7), range(7), range(7)) is None
    with pytest.raises(ValueError, match="curves of shapes"):
        overoptimisation(range(9), range(9), range(8))
    with pytest.raises(ValueError, match="not finite"):
        overoptimisation(range(9), range(9), [float("nan")] * 9)


# --------------------------------------------------------------------------------------------- the page of a run


def with_gold(folder: Path, gold: list[float]) -> Path:
    """A made-up run whose evaluations have a gold reward beside the learned one."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    values = iter(gold)
    for line in lines:
        if line["kind"] == "evaluation":
            line |= {"eval/gold": next(values), "eval/gold_se": 0.1}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_the_page_says_from_which_step_gold_fell(tmp_path: Path) -> None:
    turned = with_gold(make(tmp_path, "a", steps=110, every=10), [0, 2, 4, 5, 5.2, 5, 4, 3, 2, 1, 0, -1])
    rose = with_gold(make(tmp_path, "b", steps=110, every=10), [float(i) for i in range(12)])
    few = with_gold(make(tmp_path, "c", steps=120, every=60), [0.0, 1.0, 2.0])
    said = findings(load([turned, rose, few]))
    assert "the learned reward on held-out prompts" in said[0] and said[0].endswith("better.")
    assert said[1].startswith("A: over-optimisation from step 40: from there to the end gold lost")
    assert "B: gold 0.00" in said[3] and said[3].endswith("no over-optimisation beyond noise.")
    assert "3 evaluations are too few" in said[5]
    page = write([turned], tmp_path / "page.html", title="T", verdict=said[:2]).read_text(encoding="utf-8")
    assert "Gold next to the learned reward" in page and "Gold next to a learned reward" in page
    plain = findings(load([make(tmp_path, "d")]))
    assert len(plain) == 1 and "reward on held-out prompts" in plain[0] and "gold" not in plain[0]
