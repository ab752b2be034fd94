"""Numbers of a run by hand: shares of the attainable gain, the frontier, the speed with its censoring, and breaks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.core.errors import UserError
from prefloop.lab.scores import Objective, broke, frontier, horizon, speed, start
from prefloop.lab.setting import make
from prefloop.lab.stack import Run

ARMS, LENGTHS = make("dpo", "arms"), make("dpo", "lengths")


def run(gold: Sequence[float], setting: object = ARMS, **curves: Sequence[float]) -> Run:
    """A run by hand, evaluated at steps 0, 1, 2, 4, 8, …; ten samples and no query per step."""
    step = [0.0, *(2.0**i for i in range(len(gold) - 1))]
    columns: dict[str, Sequence[float]] = {
        "step": step,
        "samples": [10 * n for n in step],
        "reward_queries": [0.0] * len(gold),
        "eval/gold": gold,
        "eval/reward": gold,
        "eval/kl_reverse_exact": [0.0] * len(gold),
        "diverged": [0.0] * len(gold),
        **{k.replace("__", "/"): v for k, v in curves.items()},
    }
    return Run(setting, {k: np.array(v, dtype=np.float64) for k, v in columns.items()})  # type: ignore[arg-type]


GAIN = Objective(beta=0.1, reference=0.2, best=0.7)


def test_the_share_is_of_what_the_objective_can_gain() -> None:
    """J = 0.6 − 0.1·1 = 0.5, so (0.5 − 0.2)/(0.7 − 0.2) = 0.6; at the reference 0."""
    one = run([0.2, 0.4, 0.6], eval__kl_reverse_exact=[0.0, 0.5, 1.0])
    assert GAIN.curve(one).tolist() == pytest.approx([0.0, 0.3, 0.6])
    assert GAIN.end(one) == pytest.approx(0.6)


def test_without_a_penalty_no_kl_is_needed() -> None:
    one = run([0.2, 0.7], eval__kl_reverse_exact=[math.nan, math.nan])
    assert Objective(0.0, 0.2, 0.7).end(one) == pytest.approx(1.0)


def test_early_stopping_uses_what_its_user_sees() -> None:
    """The proxy is best at step 2, but for β = 0.1 it is not worth its KL there: 0.9 − 0.4 < 0.7 − 0.1."""
    one = run([0.2, 0.6, 0.5, 0.1], eval__reward=[0.2, 0.7, 0.9, 0.8], eval__kl_reverse_exact=[0.0, 1.0, 4.0, 6.0])
    assert GAIN.early(one) == pytest.approx((0.6 - 0.1 - 0.2) / 0.5)
    assert Objective(0.01, 0.2, 0.7).early(one) == pytest.approx((0.5 - 0.04 - 0.2) / 0.5)
    assert GAIN.end(one) < 0


def test_early_stopping_passes_over_what_is_no_number() -> None:
    one = run([0.2, 0.5, 0.4], eval__reward=[math.nan, math.nan, 0.3])
    assert Objective(0.0, 0.2, 0.7).early(one) == pytest.approx(0.4)
    assert math.isnan(Objective(0.0, 0.2, 0.7).early(run([0.2, 0.3], eval__reward=[math.nan, math.inf])))


@pytest.mark.parametrize(
    ("made", "said"), [((-0.1, 0.0, 1.0), "β must be"), ((0.1, 0.5, 0.5), "nothing can be gained")]
)
def test_an_objective_without_a_gain_is_refused(made: tuple[float, float, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Objective(*made)


# ----------------------------------------------------------------------------------------------------------- frontier


def test_the_frontier_is_linear_between_evaluations() -> None:
    one = run([0.2, 0.4, 0.8, 0.6], eval__kl_reverse_exact=[0.0, 1.0, 3.0, 4.0])
    assert frontier(one, [0.0, 0.5, 1.0, 2.0, 3.0, 10.0]).tolist() == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.8, 0.8])


def test_the_frontier_counts_a_way_back() -> None:
    """KL rises to 4 and falls to 1: at 2 the way up has 0.3, the way back 0.7."""
    one = run([0.2, 0.4, 0.8], eval__kl_reverse_exact=[0.0, 4.0, 1.0])
    assert frontier(one, [2.0]).tolist() == pytest.approx([0.8])
    back = run([0.2, 0.4, 0.8], eval__kl_reverse_exact=[0.0, 4.0, 2.5])
    assert frontier(back, [2.0, 2.5]).tolist() == pytest.approx([0.3, 0.8])


def test_the_frontier_passes_over_what_is_no_number() -> None:
    one = run([0.2, math.nan, 0.8], eval__kl_reverse_exact=[0.0, 1.0, math.nan])
    assert frontier(one, [0.0, 5.0]).tolist() == pytest.approx([0.2, 0.2])
    assert np.isnan(frontier(run([0.2], eval__kl_reverse_exact=[1.0]), [0.5])).all()


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 10)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_the_frontier_never_falls(path: list[tuple[float, float]]) -> None:
    gold, kl = [0.1, *(g for g, _ in path)], [0.0, *(k for _, k in path)]
    values = frontier(run(gold, eval__kl_reverse_exact=kl), np.linspace(0, 11, 23).tolist())
    assert (np.diff(values) >= -1e-12).all() and values[0] >= 0.1 and values[-1] == pytest.approx(max(gold))


# -------------------------------------------------------------------------------------------------------------- speed

WHOLE = Objective(0.0, 0.0, 1.0)


def test_the_speed_is_linear_in_the_logarithm() -> None:
    """Half is reached halfway between steps 2 and 4 in log2: 2^1.5."""
    one = run([0.0, 0.1, 0.3, 0.7, 0.9])
    assert speed(one, WHOLE, 0.5, 8.0).log2 == pytest.approx(1.5)
    assert speed(one, WHOLE, 0.5, 80.0, "samples").log2 == pytest.approx(1.5 + math.log2(10))
    assert not speed(one, WHOLE, 0.5, 8.0).censored
    assert speed(one, WHOLE, 0.05, 8.0).log2 == 0  # within the first step: its end


def test_what_is_not_reached_is_at_the_horizon_and_said() -> None:
    slow = run([0.0, 0.1, 0.2, 0.3, 0.4])
    assert (speed(slow, WHOLE, 0.5, 8.0).log2, speed(slow, WHOLE, 0.5, 8.0).censored) == (3.0, True)
    late = run([0.0, 0.1, 0.2, 0.3, 0.9])
    assert (speed(late, WHOLE, 0.5, 4.0).log2, speed(late, WHOLE, 0.5, 4.0).censored) == (2.0, True)
    assert (speed(late, WHOLE, 0.3, 4.0).log2, speed(late, WHOLE, 0.3, 4.0).censored) == (2.0, False)


def test_a_run_that_ended_before_the_horizon_is_not_guessed() -> None:
    with pytest.raises(UserError, match="ended after 8 of `step`, before the horizon of 16"):
        speed(run([0.0, 0.1, 0.2, 0.3, 0.4]), WHOLE, 0.5, 16.0)
    assert speed(run([0.0, 0.1, 0.2, 0.7, 0.9]), WHOLE, 0.5, 16.0).censored is False


def test_a_method_without_queries_has_none() -> None:
    one = run([0.0, 0.1, 0.3, 0.7, 0.9])
    assert speed(one, WHOLE, 0.5, 64.0, "reward_queries") == speed(one, WHOLE, 0.9, 64.0, "reward_queries")
    assert speed(one, WHOLE, 0.5, 64.0, "reward_queries").log2 == 0
    assert speed(one, WHOLE, 1.0, 64.0, "reward_queries").censored


def test_the_horizon_is_where_the_shortest_ends() -> None:
    short, long = run([0.0, 1.0, 1.0]), run([0.0, 1.0, 1.0, 1.0])
    assert (horizon([short, long]), horizon([short, long], "samples")) == (2, 20)
    assert horizon([short], "reward_queries") == 1


def test_the_mean_does_not_depend_on_when_failed_runs_ended() -> None:
    """Two cells with the same hazard, one trained twice as long: the same mean at a common horizon."""
    rng = np.random.default_rng(0)
    times = rng.geometric(0.02, 200)

    def mean(steps: int) -> float:
        grid = np.arange(steps + 1.0)
        runs = [run([0.0, 0.0], step=grid.tolist(), eval__gold=(grid >= t).astype(float).tolist()) for t in times]
        return float(np.mean([speed(r, WHOLE, 1.0, 64.0).log2 for r in runs]))

    assert mean(64) == pytest.approx(mean(128), abs=1e-12)


@pytest.mark.parametrize(("share", "by"), [(0.0, 8.0), (1.5, 8.0), (0.5, 0.5), (0.5, math.inf)])
def test_a_share_or_horizon_that_means_nothing_is_refused(share: float, by: float) -> None:
    with pytest.raises(UserError, match="is needed"):
        speed(run([0.0, 1.0]), WHOLE, share, by)


# ------------------------------------------------------------------------------------------------------------- breaks


@pytest.mark.parametrize(
    ("gold", "broken"), [([0.2, 0.9], False), ([0.2, 0.05], False), ([0.2, -0.01], True), ([0.2, math.nan], True)]
)
def test_a_run_that_ends_far_below_its_start_broke(gold: list[float], broken: bool) -> None:
    """A quarter of what can be gained, 0.25·(1 − 0.2) = 0.2."""
    assert broke(run(gold)) is broken and start(run(gold)) == 0.2


def test_the_ceiling_is_that_of_the_problem() -> None:
    """−3 tokens over 0: a quarter is 0.75."""
    assert not broke(run([-3.0, -3.7], LENGTHS)) and broke(run([-3.0, -3.8], LENGTHS))
    assert not broke(run([-3.0, -3.8], LENGTHS), fall=0.5)


def test_a_run_broke_if_it_diverged_or_is_too_far_away() -> None:
    assert broke(run([0.2, 0.9], diverged=[0.0, 1.0]))
    far = run([0.2, 0.9, 0.9], eval__kl_reverse_exact=[0.0, 5.0, 30.0])
    assert not broke(far) and not broke(far, kl=40.0) and broke(far, kl=20.0)
    assert not broke(far, kl=20.0, at=1)
    assert broke(run([0.2, 0.9], eval__kl_reverse_exact=[0.0, math.nan]))
