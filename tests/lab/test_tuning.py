"""The search for learning rates: simulated curves with a known optimum, the rounds by hand, and many cells at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.core.errors import UserError
from prefloop.lab.climb import Mark, axis, best, safer
from prefloop.lab.forecast import foreseen
from prefloop.lab.scores import Scoring
from prefloop.lab.setting import Setting, make
from prefloop.lab.stack import Run
from prefloop.lab.store import Store, to_bytes
from prefloop.lab.summary import TUNING
from prefloop.lab.sweep import sweep
from prefloop.lab.tuning import RATES, Ask, Found, Knob, Point, Search, Tuned, compared, explore, look, tune

Curve = Callable[[float], float]
A, B = make("best_of_n", "arms", steps=50), make("dpo", "arms", steps=50)
BASE = 7 * 2 + 3 * 2 + 8  # runs of a search that neither grows nor doubts: earlier seeds are kept
MANY = 100  # simulations


def log(point: Point) -> float:
    return math.log10(point.rate)


def search_of(
    curve: Curve,
    rng: np.random.Generator,
    *,
    noise: float = 0.05,
    broken: Curve = lambda x: 0.0,
    search: Search | None = None,
) -> tuple[Found, int]:
    """What a search finds on a curve of log10 of the rate, and how many runs it takes.

    Runs of one seed share a part of their noise, as they share data and prompts; broken ones score below the reference.
    """
    search, common = search or Search(), rng.normal(0, 0.1, 12)

    def measure(asks: list[Ask]) -> list[Mark]:
        marks = []
        for ask in asks:
            x = log(ask.point)
            score = curve(x) + common[ask.seed] + rng.normal(0, noise)
            lost = bool(rng.random() < broken(x))
            marks.append(Mark(min(score, -0.2) if lost else score, lost))
        return marks

    (tried,) = explore([search], measure)
    found = look(search, tried)
    assert isinstance(found, Found)
    return found, sum(map(len, tried.values()))


# -------------------------------------------------------------------------------------------------- simulated problems


@pytest.mark.parametrize("noise", [0.02, 0.1])
@pytest.mark.parametrize(
    ("low", "high"), [(-4.0, -1.0), (-5.5, -4.2), (-0.8, 0.5)], ids=["inside", "below the grid", "above the grid"]
)
def test_the_choice_is_within_one_step_of_the_best(low: float, high: float, noise: float) -> None:
    """A peak that falls by 0.16 in a step and by 0.64 in two."""
    near, inside, runs = 0, 0, []
    for seed in range(MANY):
        rng = np.random.default_rng(seed)
        peak = rng.uniform(low, high)
        found, n = search_of(lambda x, peak=peak: 0.9 - 0.64 * (x - peak) ** 2, rng, noise=noise)
        near += abs(log(found.point) - peak) <= 0.5
        inside += found.interior
        runs.append(n)
    assert near >= 0.95 * MANY
    assert inside >= 0.99 * MANY
    assert np.mean(runs) <= BASE + (4 if low == -4.0 else 12)


@pytest.mark.parametrize("width", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("beyond", [0.0, 0.5, 1.0])
def test_at_a_cliff_the_stable_side_is_chosen(width: float, beyond: float) -> None:
    """Runs break above a rate; those that do not are better there, where the peak is."""
    near, over = 0, 0
    grid = np.linspace(-7, 2, 400)
    for seed in range(MANY):
        rng = np.random.default_rng(seed)
        cliff = rng.uniform(-4, -0.5)

        def curve(x: float, cliff: float = cliff) -> float:
            return 0.9 - 0.4 * (x - cliff - beyond) ** 2

        def broken(x: float, cliff: float = cliff) -> float:
            return 1 / (1 + math.exp(min(50, -2 * (x - cliff) / width)))

        found, _ = search_of(curve, rng, broken=broken)
        worth = [(1 - broken(x)) * curve(x) + broken(x) * min(-0.2, curve(x)) for x in grid]
        away = log(found.point) - grid[int(np.argmax(worth))]
        near += abs(away) <= 0.5
        over += away > 0.5
    assert near >= 0.95 * MANY
    assert over <= 0.03 * MANY


@pytest.mark.parametrize("width", [1.0, 2.0, 3.0])
def test_on_a_plateau_the_choice_is_on_it_and_costs_little(width: float) -> None:
    near, runs, inside = 0, [], 0
    for seed in range(MANY):
        rng = np.random.default_rng(seed)
        low = rng.uniform(-4, -2)
        found, n = search_of(
            lambda x, low=low: 0.9 - 0.5 * max(0.0, low - x) - 0.5 * max(0.0, x - low - width), rng, noise=0.05
        )
        near += low - 0.5 <= log(found.point) <= low + width + 0.5
        inside += found.interior
        runs.append(n)
    assert near >= 0.95 * MANY and inside == MANY
    assert np.mean(runs) <= BASE + 6


def test_where_every_rate_breaks_a_lower_one_is_tried() -> None:
    found, _ = search_of(lambda x: -abs(x + 5), np.random.default_rng(0), noise=0.0, broken=lambda x: float(x > -4.6))
    assert log(found.point) == -5 and found.interior


# --------------------------------------------------------------------------------------------------------- the rounds


def exactly(curve: Curve, search: Search | None = None) -> tuple[Found, dict[Point, int], list[list[Ask]]]:
    """A search without noise: what it finds, the seeds of each point, and what it asked for in each round."""
    search, asked = search or Search(), list[list[Ask]]()

    def measure(asks: list[Ask]) -> list[Mark]:
        asked.append(asks)
        return [Mark(curve(log(ask.point)), False) for ask in asks]

    (tried,) = explore([search], measure)
    found = look(search, tried)
    assert isinstance(found, Found)
    return found, {point: len(marks) for point, marks in tried.items()}, asked


def test_seven_rates_then_three_then_one() -> None:
    found, seeds, asked = exactly(lambda x: -abs(x + 2.5))
    assert found == Found(Point(3.2e-3), True, "learning rate 0.0032 of 0.0001 to 0.1")
    assert [len(asks) for asks in asked] == [14, 6, 8]
    assert [seeds[Point(rate)] for rate in RATES] == [2, 2, 4, 12, 4, 2, 2]


@pytest.mark.parametrize(
    ("peak", "rate", "added"), [(0.0, 1.0, (0.32, 1.0, 3.2)), (-5.0, 1e-5, (3.2e-5, 1e-5, 3.2e-6))]
)
def test_the_grid_grows_until_the_best_is_inside(peak: float, rate: float, added: tuple[float, ...]) -> None:
    found, seeds, _ = exactly(lambda x: -abs(x - peak))
    assert found.point == Point(rate) and found.interior
    assert {p.rate for p in seeds} == {*RATES, *added}
    assert seeds[Point(rate)] == 12 and seeds[Point(added[0])] == seeds[Point(added[2])] == 4


@pytest.mark.parametrize(("rising", "rate", "side"), [(1, 10.0, "highest"), (-1, 1e-6, "lowest")])
def test_a_best_that_is_still_at_an_edge_is_said(rising: int, rate: float, side: str) -> None:
    found, seeds, _ = exactly(lambda x: rising * x)
    assert found.point == Point(rate) and not found.interior
    assert f"the best is still the {side} learning rate that may be tried: no verdict" in found.why
    assert len(seeds) == 7 + 4
    assert exactly(lambda x: rising * x, Search(grow=0))[0].interior is False


def test_a_rate_that_breaks_once_confirmed_gives_way_to_a_lower_one() -> None:
    """The best on four seeds breaks on half of the others; the one above it has no better claim."""

    def measure(asks: list[Ask]) -> list[Mark]:
        height = {1e-3: 0.5, 3.2e-3: 0.8, 1e-2: 1.0, 3.2e-2: 0.9}
        lost = [a.point.rate == 1e-2 and a.seed >= 4 and a.seed % 2 == 0 for a in asks]
        return [Mark(0.0 if b else height.get(a.point.rate, 0.1), b) for a, b in zip(asks, lost, strict=True)]

    (tried,) = explore([Search()], measure)
    found = look(Search(), tried)
    assert isinstance(found, Found) and found.point == Point(3.2e-3)
    assert len(tried[Point(1e-2)]) == len(tried[Point(3.2e-3)]) == 12 and len(tried[Point(3.2e-2)]) == 4


def marks(*rows: Sequence[float]) -> dict[int, tuple[Mark, ...]]:
    return {i: tuple(Mark(x, False) for x in row) for i, row in enumerate(rows)}


def test_the_parabola_decides_between_rates_that_noise_does_not_tell_apart() -> None:
    """Means 0, 6, 7.1, 6.9, 7.2, 3: the highest is the fifth, but what lies around it says the fourth."""
    noisy = marks([0, 0], [6.5, 5.5], [7.6, 6.6], [6.4, 7.4], [7.7, 6.7], [2.5, 3.5])
    assert best(noisy, 2) == 3
    sure = {i: tuple(Mark(float(np.mean([m.score for m in own])), False) for m in own) for i, own in noisy.items()}
    assert best(sure, 2) == 4  # without noise the highest is the highest


def test_what_a_seed_adds_to_all_rates_is_no_noise() -> None:
    """The rate below the best is worse by 0.1 on every seed, though seeds differ by 1."""
    apart = marks([0.0, 1.0], [0.5, 1.5], [0.6, 1.6], [0.2, 1.2])
    assert best(apart, 2) == 2 and safer(apart, 2, 2) == 2
    close = marks([0.0, 1.0], [0.5, 1.7], [0.7, 1.6], [0.2, 1.2])
    assert best(close, 2) == 2 and safer(close, 2, 2) == 1
    close[1] = (close[1][0], Mark(1.7, True))
    assert safer(close, 2, 2) == 2  # the lower one is not the safer one


@given(
    values=st.lists(st.floats(-1, 1), min_size=15, max_size=15),
    noise=st.floats(0, 1),
    grow=st.integers(0, 4),
    lost=st.sets(st.integers(0, 14)),
)
@settings(max_examples=60, deadline=None)
def test_any_curve_ends_within_bounds(values: list[float], noise: float, grow: int, lost: set[int]) -> None:
    """Whatever is measured: the search ends, tries no rate out of bounds, and ends on a rate with twelve seeds."""
    search, rng = Search(grow=grow), np.random.default_rng(0)
    line = axis(search.rates, search.step, grow)
    place = {rate: i for i, rate in enumerate(line.values)}

    def measure(asks: list[Ask]) -> list[Mark]:
        at = [place[a.point.rate] for a in asks]
        return [Mark(-1.0 if i in lost else values[i] + noise * rng.normal(), i in lost) for i in at]

    (tried,) = explore([search], measure)
    found = look(search, tried)
    assert isinstance(found, Found)
    seen = sorted(place[p.rate] for p in tried)
    assert seen == list(range(seen[0], seen[-1] + 1)) and len(seen) <= 7 + 2 * grow
    assert len(tried[found.point]) == 12
    assert all(2 <= len(own) <= 12 for own in tried.values())
    at = place[found.point.rate]
    if found.interior:
        assert seen[0] <= at < seen[-1]
        assert noise or max(values[i] for i in seen if i not in lost or at in lost) <= values[at] + 1e-9 or at in lost


# ----------------------------------------------------------------------------------------------------------- the knob


def test_the_knob_is_tuned_at_the_rate_and_the_rate_again() -> None:
    """A higher β is better and asks for a higher rate; the knob's grid grows to 1, and the rate follows by a step."""
    knob = Knob("beta", (0.032, 0.1, 0.32), start=0.1)

    def measure(asks: list[Ask]) -> list[Mark]:
        away = [(log(a.point) + 2.5, math.log10(a.point.knob or 1)) for a in asks]
        return [Mark(-abs(x - (z + 1) / 2) - abs(z), False) for x, z in away]

    (tried,) = explore([Search(knob=knob)], measure)
    found = look(Search(knob=knob), tried)
    assert found == Found(Point(1e-2, 1.0), True, "learning rate 0.01 of 0.0001 to 0.1; beta 1 of 0.032 to 3.2")
    assert [len(tried[Point(rate, 1.0)]) for rate in (3.2e-3, 1e-2, 3.2e-2)] == [4, 12, 4]


def test_rate_and_knob_move_together_along_a_ridge() -> None:
    """Neither a rate nor a knob is better by itself, both together are: the search goes up the diagonal."""
    search = Search(knob=Knob("beta", (0.032, 0.1, 0.32, 1.0, 3.2), start=0.1))

    def score(point: Point) -> float:
        x, z = log(point) + 2.5, math.log10(point.knob or 1)
        return -abs(z - 0.5) / 4 - 4 * abs(x - 1 - z)

    (tried,) = explore([search], lambda asks: [Mark(score(a.point), False) for a in asks])
    found = look(search, tried)
    assert isinstance(found, Found) and found.interior and found.point == Point(1e-1, 3.2)
    around = [Point(rate, knob) for rate in (3.2e-2, 1e-1, 3.2e-1) for knob in (1.0, 3.2, 10.0)]
    assert max(around, key=score) == found.point and all(len(tried[point]) >= 4 for point in around)


@given(st.floats(-4, -1.5), st.floats(-1.5, 0.5), st.floats(-1.5, 1.5))
@settings(max_examples=30, deadline=None)
def test_what_is_found_is_the_best_of_its_neighbours(rate: float, knob: float, tilt: float) -> None:
    search = Search(knob=Knob("beta", (0.032, 0.1, 0.32), start=0.1))

    def score(point: Point) -> float:
        x, z = log(point) - rate, math.log10(point.knob or 1) - knob
        return -(x**2) - z**2 - tilt * x * z

    (tried,) = explore([search], lambda asks: [Mark(score(a.point), False) for a in asks])
    found = look(search, tried)
    assert isinstance(found, Found)
    known = [p for p, marks in tried.items() if len(marks) >= 4]
    assert score(found.point) >= max(map(score, known)) - 1e-9


@pytest.mark.parametrize(("natural", "interior"), [((False, False), False), ((True, False), True)])
def test_a_knob_at_a_natural_bound_is_at_no_edge(natural: tuple[bool, bool], interior: bool) -> None:
    knob = Knob("kl", (0.01, 0.032, 0.1), start=0.032, natural=natural)

    def measure(asks: list[Ask]) -> list[Mark]:
        return [Mark(-abs(log(a.point) + 2.5) - math.log10(a.point.knob or 1), False) for a in asks]

    (tried,) = explore([Search(knob=knob)], measure)
    found = look(Search(knob=knob), tried)
    assert isinstance(found, Found) and found.interior is interior
    assert found.point.knob == (0.01 if natural[0] else 1e-4)


# --------------------------------------------------------------------------------------------------------- many cells


class Book:
    """A sweep that looks scores up, and keeps what it was asked for."""

    def __init__(self, peaks: dict[str, float]) -> None:
        self.peaks, self.asked = peaks, list[list[Setting]]()

    def __call__(self, some: Sequence[Setting]) -> list[Run]:
        self.asked.append(list(some))
        return [self.run(s) for s in some]

    def run(self, setting: Setting) -> Run:
        gold = 0.5 - 0.3 * abs(math.log10(setting.lr) - self.peaks[setting.method])
        return Run(
            setting,
            {"eval/gold": np.array([0.1, gold]), "step": np.array([0.0, 50.0]), "diverged": np.zeros(2)},
        )


END = Scoring(lambda run: run.last("eval/gold"))


def test_cells_are_tuned_together_on_seeds_of_their_own() -> None:
    book = Book({"best_of_n": -2.5, "dpo": -3.0})
    first, second = tune([A, B], Search(), book, END)
    assert (first.setting, second.setting) == (replace(A, lr=3.2e-3), replace(B, lr=1e-3))
    assert [len(some) for some in book.asked] == [28, 12, 16]  # a round of both is one sweep
    assert {s.seed for some in book.asked for s in some} == set(range(TUNING, TUNING + 12))
    assert first.runs == second.runs == BASE and first.steps == second.steps == BASE * 50
    cells = compared([first, second], range(3), book)
    assert [(s.method, s.lr, s.seed) for s in book.asked[-1]] == [
        (m, lr, i) for m, lr in (("best_of_n", 3.2e-3), ("dpo", 1e-3)) for i in range(3)
    ]
    assert [c.at_edge for c in cells] == [False, False]
    assert cells[0].tried == pytest.approx({r: 0.5 - 0.3 * abs(math.log10(r) + 2.5) for r in RATES})
    with pytest.raises(UserError, match="seeds from 1000 on are those of tuning"):
        compared([first], [TUNING], book)


def test_each_cell_may_have_its_own_search() -> None:
    """DPO's β is an override; the cell that ends first is not run on."""
    book = Book({"best_of_n": -2.5, "dpo": -3.0})
    searches = [Search(), Search(knob=Knob("beta", (0.05, 0.1, 0.2), start=0.1, natural=(True, True)))]
    first, second = tune([A, B], searches, book, END)
    assert first.runs == BASE < second.runs
    assert second.setting.override["beta"] in (0.05, 0.1, 0.2) and "beta" not in first.setting.override
    assert first.breaks == dict.fromkeys(first.tried, 0.0)


def test_broken_runs_count_as_the_reference_or_lower() -> None:
    def run(end: float, diverged: float = 0.0) -> Run:
        return Run(
            A,
            {
                "eval/gold": np.array([0.1, end]),
                "step": np.array([0.0, 50.0]),
                "diverged": np.array([0.0, diverged]),
            },
        )

    assert END(run(0.6)) == Mark(0.6, False)
    assert END(run(0.6, diverged=1.0)) == Mark(0.1, True)
    assert END(run(-0.9)) == Mark(-0.9, True)
    assert END(run(math.nan)) == Mark(0.1, True)


class Instant:
    """A pool that makes each job's runs up, and can be killed."""

    workers = 1

    def __init__(self, book: Book, jobs: int) -> None:
        self.book, self.left, self.ran = book, jobs, 0

    def run(self, jobs: Sequence[Sequence[Setting]], tick: Callable[[int], None]) -> object:
        from prefloop.lab.pool import Done

        for number, job in enumerate(jobs):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.ran += len(job)
            yield Done(number, to_bytes([self.book.run(s) for s in job]))

    def close(self) -> None:
        pass


def test_an_interrupted_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    book = Book({"best_of_n": -2.5, "dpo": -0.5})
    ran = 0
    for jobs in (1, 2, 3, 10**6):
        pool, store = Instant(book, jobs), Store(tmp_path)
        with suppress(KeyboardInterrupt):
            done = tune([A, B], Search(), lambda s, p=pool, t=store: sweep(s, t, p, stack=8, quiet=True), END)
        ran += pool.ran
    assert ran == sum(one.runs for one in done)
    assert done == tune([A, B], Search(), Book(book.peaks), END)


def test_a_forecast_knows_the_runs_before_they_are_run() -> None:
    wanted, ends = foreseen([A, B], Search())
    assert len(wanted) == len({s.run for s in wanted}) == 2 * BASE
    assert [one.setting.lr for one in ends] == [3.2e-3] * 2
    book = Book({"best_of_n": -2.5, "dpo": -0.5})
    known, ends = foreseen([A, B], Search(), lambda s: END(book.run(s)))
    tuned: list[Tuned] = tune([A, B], Search(), book, END)
    assert [s for some in book.asked for s in some] == known and ends == tuned


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Search(rates=(1e-2, 1e-3)), "ascending"),
        (lambda: Search(rates=(1e-4, 1e-2), rounds=((2, 1), (1, 2))), "100 times the one before, not 3.16 times"),
        (lambda: Search(rounds=((7, 2), (3, 2), (1, 12))), "do not go from 7 rates to 1"),
        (lambda: Search(rounds=((7, 2), (2, 4))), "do not go from 7 rates to 1"),
        (lambda: Search(rates=RATES[:3]), "do not go from 3 rates to 1"),
        (lambda: Search(grow=-1), "`grow` must be at least 0"),
        (lambda: Knob("beta", (0.0, 0.1), 0.1), "`beta` must be two or more positive numbers"),
        (lambda: Knob("beta", (0.1, 0.2), 0.3), "`start` of the knob `beta` must be one of its values"),
        (lambda: Knob("beta", (0.1, 0.2), 0.1, step=1.0), "`step` must be a factor above 1"),
    ],
)
def test_what_makes_no_search_is_refused(made: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        made()


def test_a_bound_of_zero_is_a_value() -> None:
    assert Knob("kl", (0.0, 0.01, 0.1), 0.01, natural=(True, False)).values[0] == 0
