"""From runs to numbers: the learning rate of a cell, intervals and bands by hand, and what a sweep is said to take."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop.analysis.statistics import iqm
from prefloop.lab import forecast as forecast_module
from prefloop.lab.forecast import SIZES, Forecast, Probe, best_size, forecast, probe
from prefloop.lab.pool import LocalPool
from prefloop.lab.setting import Setting, changed, make, seeds
from prefloop.lab.stack import Run
from prefloop.lab.store import Store
from prefloop.lab.summary import TUNING, Cell, band, differences, interval, means, over_training, tuned
from prefloop.lab.sweep import jobs_of, sweep
from prefloop.runs import progress as progress_module

A, B = make("best_of_n", "arms", centre=70.0), make("rloo", "arms", centre=20.0)
RATES = (1e-3, 1e-2, 1e-1)
Score = Callable[[Setting], float]


def run(setting: Setting, reward: float | Sequence[float], *, diverged: bool = False, **curves: Sequence[float]) -> Run:
    """A run by hand; a single reward is that of its whole course."""
    rewards = [reward] * 3 if isinstance(reward, int | float) else list(reward)
    columns: dict[str, Sequence[float]] = {"eval/gold": rewards, "diverged": [float(diverged)] * len(rewards)}
    columns |= {"step": np.linspace(0, 20, len(rewards)).tolist(), **curves}
    return Run(setting, {name: np.array(column, dtype=np.float64) for name, column in columns.items()})


class Book:
    """A sweep that looks its rewards up, and keeps what it was asked for."""

    def __init__(self, score: Score, diverged: Callable[[Setting], bool] = lambda s: False) -> None:
        self.score, self.diverged = score, diverged
        self.asked: list[list[Setting]] = []

    def __call__(self, settings: Sequence[Setting]) -> list[Run]:
        self.asked.append(list(settings))
        return [run(s, self.score(s), diverged=self.diverged(s)) for s in settings]


# -------------------------------------------------------------------------------------------------- the learning rate


def test_each_cell_takes_the_rate_with_the_best_mean_on_tuning_seeds() -> None:
    """On the seeds of the comparison the order is the opposite, and a single tuning seed would mislead."""
    means = {("best_of_n", 1e-3): 0.1, ("best_of_n", 1e-2): 0.5, ("best_of_n", 1e-1): 0.3}
    means |= {("rloo", 1e-3): 0.4, ("rloo", 1e-2): 0.2, ("rloo", 1e-1): 0.3}

    def score(s: Setting) -> float:
        mean = means[s.method, s.lr]
        if s.seed < TUNING:
            return 1 - mean
        lucky = s.lr == 1e-1
        return mean + (0.6 if lucky else 0.0) * (1 if s.seed == TUNING else -1)

    first, second = tuned([A, B], RATES, [3, 1], 2, Book(score))
    assert (first.setting.lr, second.setting.lr) == (1e-2, 1e-3)
    assert first.tried == pytest.approx({1e-3: 0.1, 1e-2: 0.5, 1e-1: 0.3})
    assert second.tried == pytest.approx({1e-3: 0.4, 1e-2: 0.2, 1e-1: 0.3})
    assert first.mean().tolist() == pytest.approx([0.5, 0.5]) and second.mean().tolist() == pytest.approx([0.6, 0.6])


def test_the_score_may_be_another_one() -> None:
    """Over training the low rate is better, at the end the high one."""

    def score(settings: Sequence[Setting]) -> list[Run]:
        return [run(s, [0.0, 0.5, 0.1] if s.lr == 1e-3 else [0.0, 0.1, 0.4]) for s in settings]

    assert tuned([A], RATES[:2], [0], 1, score)[0].setting.lr == 1e-3
    assert tuned([A], RATES[:2], [0], 1, score, lambda r: r.last("eval/gold"))[0].setting.lr == 1e-2


@pytest.mark.parametrize("lost", [TUNING, TUNING + 2])
def test_a_rate_that_diverges_on_one_tuning_seed_is_not_taken(lost: int) -> None:
    book = Book(lambda s: 100.0 * s.lr, lambda s: s.lr == 1e-1 and s.seed == lost)
    (cell,) = tuned([A], RATES, [0], 3, book)
    assert cell.setting.lr == 1e-2 and cell.tried[1e-1] == -np.inf
    assert all(s.lr == 1e-2 for s in book.asked[1])


def test_budgets_are_equal_and_the_seeds_of_tuning_are_not_those_of_the_comparison() -> None:
    book = Book(lambda s: s.lr)
    cells = tuned([A, B], RATES, range(5), 2, book)
    tuning, final = book.asked
    assert len(tuning) == len({s.run for s in tuning}) == 2 * 3 * 2
    asked = {(s.method, s.lr): 0 for s in tuning}
    for s in tuning:
        asked[s.method, s.lr] += 1
    assert asked == dict.fromkeys(product(("best_of_n", "rloo"), RATES), 2)
    assert [(s.method, s.lr, s.seed) for s in final] == [(m, 1e-1, i) for m in ("best_of_n", "rloo") for i in range(5)]
    assert {s.seed for s in tuning} & {s.seed for s in final} == set()
    changed = {replace(s, seed=0, lr=1.0).run for s in (*tuning, *final)}
    assert changed == {replace(s, seed=0, lr=1.0).run for s in (A, B)}  # nothing else was touched
    assert [len(cell.runs) for cell in cells] == [5, 5]


def test_a_single_rate_is_taken_as_it_is() -> None:
    book = Book(lambda s: 0.0)
    cells = tuned([B, A], [3e-3], [7, 4], 3, book)
    assert [[(s.method, s.lr, s.seed) for s in asked] for asked in book.asked] == [
        [("rloo", 3e-3, 7), ("rloo", 3e-3, 4), ("best_of_n", 3e-3, 7), ("best_of_n", 3e-3, 4)]
    ]
    assert [(c.setting.lr, c.tried, c.at_edge) for c in cells] == [(3e-3, {}, False)] * 2


def test_cells_and_seeds_keep_their_order() -> None:
    cells = tuned([B, A], RATES, [9, 2, 5], 1, Book(lambda s: s.seed / 10 + (s.method == "rloo")))
    assert [[r.setting.seed for r in cell.runs] for cell in cells] == [[9, 2, 5]] * 2
    assert cells[0].last().tolist() == pytest.approx([1.9, 1.2, 1.5])
    assert cells[1].last().tolist() == pytest.approx([0.9, 0.2, 0.5])
    assert all(r.setting.method == cell.setting.method for cell in cells for r in cell.runs)


@pytest.mark.parametrize(("best", "edge"), [(1e-3, True), (1e-2, False), (1e-1, True)])
def test_at_edge(best: float, edge: bool) -> None:
    unordered = (1e-2, 1e-1, 1e-3)
    (cell,) = tuned([A], unordered, [0], 1, Book(lambda s: float(s.lr == best)))
    assert cell.setting.lr == best and cell.at_edge is edge


# ------------------------------------------------------------------------------------------------------------- numbers


def test_a_cell_gives_one_number_per_seed() -> None:
    """Trapezoids by hand, over steps that are not evenly spaced: (1·(0+1)/2 + 3·(1+0.2)/2) / 4 = 0.575."""
    uneven = run(A, [0.0, 1.0, 0.2], step=[0, 1, 4], kl=[0, 2, 3])
    flat = run(A, 0.3, step=[0, 1, 4], kl=[0, 1, 1])
    cell = Cell(A, [uneven, flat], {})
    assert cell.mean().tolist() == pytest.approx([0.575, 0.3]) and over_training(uneven) == pytest.approx(0.575)
    assert cell.last().tolist() == [0.2, 0.3] and cell.last("kl").tolist() == [3, 1]
    assert cell.mean("kl").tolist() == pytest.approx([(1 + 7.5) / 4, (0.5 + 3) / 4])
    assert cell.curve("kl").tolist() == [[0, 2, 3], [0, 1, 1]]
    assert cell.values(lambda r: float(r.curves["eval/gold"].max())).tolist() == [1.0, 0.3]


def test_interval_is_that_of_all_resamples() -> None:
    """Four values have 4⁴ resamples: the exact quantiles of their interquartile means, without any chance."""
    values = np.array([0.0, 1.0, 3.0, 10.0])
    every = sorted(float(np.mean(sorted(drawn)[1:3])) for drawn in product(values, repeat=4))
    found = interval(values)
    assert found.value == 2.0 and (found.units, found.level) == (4, 0.95)  # (1 + 3) / 2
    assert (found.low, found.high) == (np.quantile(every, 0.025), np.quantile(every, 0.975)) == (0.0, 10.0)
    assert interval(values) == found and interval(values, seed=1).value == 2.0


def test_interval_resamples_the_interquartile_mean_and_not_the_mean() -> None:
    """One outlier of eight moves the mean by 12.5, but a quarter of the values must be outliers to move the IQM."""
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 100.0])
    found = interval(values)
    assert found.value == pytest.approx(0.45) == iqm(values)
    rng = np.random.default_rng(5)
    drawn = [np.sort(rng.choice(values, 8))[2:6].mean() for _ in range(20_000)]
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), rel=0.1) and found.high > 1


def test_interval_of_equal_values_is_a_point() -> None:
    assert str(interval(np.full(5, 0.25))) == "0.250 [0.250, 0.250]"


def test_band_of_two_units_by_enumeration() -> None:
    """Of two units a resample has the mean a, (a + b)/2 or b with probability 1/4, 1/2, 1/4: the ends are a and b."""
    middle, low, high = band(np.array([[1.0, 4.0], [3.0, 4.0]]))
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([2, 4], [1, 4], [3, 4])


def test_band_is_of_the_interquartile_mean_and_stays_inside_the_range() -> None:
    """Eight counts, most of them 0: two standard errors around the mean would reach below 0."""
    values = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.1, 0.2, 9.0])[:, None]
    middle, low, high = band(values)
    assert middle[0] == pytest.approx(iqm(values[:, 0])) and values.mean() - 1.96 * values.std(ddof=1) / 8**0.5 < 0
    rng = np.random.default_rng(5)
    drawn = [np.sort(rng.choice(values[:, 0], 8))[2:6].mean() for _ in range(20_000)]
    assert (low[0], high[0]) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), rel=0.35, abs=0.01)
    assert low[0] >= 0 and band(values, means)[0][0] == pytest.approx(values.mean())


def test_band_of_one_seed_has_no_width_and_gaps_stay_gaps() -> None:
    assert [part.tolist() for part in band(np.array([[0.1, 0.2]]))] == [[0.1, 0.2]] * 3
    gap = band(np.array([[np.nan, 1.0], [2.0, 1.0], [2.0, 1.0], [2.0, 1.0]]))
    assert [np.isnan(part).tolist() for part in gap] == [[True, False]] * 3


# --------------------------------------------------------------------------------------------------------- differences


def test_differences_are_exactly_what_differs() -> None:
    settings = [
        replace(A, batch=200, override={"beta": 0.1}),
        replace(A, lr=1.0, seed=4, steps=7, override={"beta": 0.5, "reuse": 2}),
        changed(A, centre=20.0),
    ]
    assert differences(settings) == [
        {"centre": 70.0, "batch": 200, "beta": 0.1, "reuse": "–"},
        {"centre": 70.0, "batch": 100, "beta": 0.5, "reuse": 2},
        {"centre": 20.0, "batch": 100, "beta": "–", "reuse": "–"},
    ]
    assert differences(settings, ignore=("batch", "centre", "beta", "seed", "steps")) == [
        {"lr": 1e-3, "reuse": "–"},
        {"lr": 1.0, "reuse": 2},
        {"lr": 1e-3, "reuse": "–"},
    ]


def test_nothing_differs_between_equals() -> None:
    same = replace(A, override={"reuse": 2, "beta": 0.1})
    assert differences([same, replace(same, override={"beta": 0.1, "reuse": 2}, seed=3)]) == [{}, {}]
    assert differences([A]) == [{}]


def test_an_override_of_none_is_not_its_absence() -> None:
    assert differences([replace(A, override={"mismatch_cap": None}), A]) == [
        {"mismatch_cap": None},
        {"mismatch_cap": "–"},
    ]


def test_zero_and_false_are_told_apart() -> None:
    assert differences([replace(A, override={"critic": False}), replace(A, override={"critic": 0})]) == [
        {"critic": False},
        {"critic": 0},
    ]


# ------------------------------------------------------------------------------------------------------------ forecast

TINY = make(
    "rloo", "categorical", responses=4, batch=8, minibatch=8, steps=10, evaluate=5, evaluation=2
)  # fmt: skip


class Inline(Executor):
    """An executor that needs no process."""

    def __init__(self, *_: Any) -> None:
        """Takes what the real one takes."""

    def submit(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*args))
        return future


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[list[Setting]]:
    """The stacks that were probed: a second to fit, two to build, a hundredth per run and step; 1000 bytes per run."""
    seen: list[list[Setting]] = []

    def by_hand(settings: Sequence[Setting]) -> Probe:
        seen.append(list(settings))
        return Probe(len(settings), 1.0, 2.0, 0.01 * len(settings), 1000 * len(settings))

    monkeypatch.setattr(forecast_module, "probe", by_hand)
    monkeypatch.setattr(forecast_module, "ProcessPoolExecutor", Inline)
    return seen


def test_forecast_by_hand(told: list[list[Setting]]) -> None:
    long = seeds(replace(TINY, steps=100), range(5))
    jobs = jobs_of([*seeds(TINY, range(10)), *long, *seeds(replace(TINY, batch=16), [1, 2])], 4)
    assert [len(job) for job in jobs] == [4, 1, 4, 4, 2, 2]
    got = forecast(jobs, 2)
    assert (got.runs, got.stacks) == (17, 6)
    assert sorted(map(len, told)) == [2, 4]  # one probe per kind, of its largest stack: lengths differ, kinds do not
    run_steps = 10 * 10 + 5 * 100 + 2 * 10
    assert got.seconds == pytest.approx(1 + (6 * 2 + 0.01 * run_steps) / 2, abs=0.1)
    assert got.bytes == 2 * 4000


def test_more_workers_than_stacks_do_not_help(told: list[list[Setting]]) -> None:
    jobs = jobs_of(seeds(TINY, range(4)), 4)
    assert forecast(jobs, 1).seconds == pytest.approx(forecast(jobs, 8).seconds, abs=0.1)
    assert forecast(jobs, 8).bytes == 4000


def test_a_forecast_says_what_it_times(told: list[list[Setting]], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    jobs = jobs_of([*seeds(TINY, range(4)), replace(TINY, batch=16)], 4)
    forecast(jobs, 2, said.append)
    assert sorted(said) == [
        f"timing {n} of 2: {k} runs of rloo on categorical" for n, k in enumerate(map(len, told), 1)
    ]  # fmt: skip
    best_size(TINY, said.append)
    assert said[2:] == [f"timing stacks of {n}" for n in SIZES]


def test_a_long_probe_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast_module, "HEARTBEAT", 0.01)
    slow, said = Future[Probe](), list[str]()

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            slow.set_result(Probe(1, 0.0, 0.0, 0.0, 0))

    assert forecast_module._awaited(slow, "timing", say).runs == 1
    assert said[0] == "timing" and all("so far; a reference is fitted once" in text for text in said[1:])
    assert forecast_module.HEARTBEAT < 10 and progress_module.SECONDS <= 10


def test_nothing_to_run_takes_nothing(told: list[list[Setting]]) -> None:
    assert forecast([], 2) == Forecast(0, 0, 0.0, 0) and told == []


def test_a_probe_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: its memory is what the system says it is."""
    monkeypatch.setattr(forecast_module, "ProcessPoolExecutor", Inline)
    job = seeds(TINY, range(3))
    pages = Path("/proc/self/statm")  # where there is none, any positive number must do
    before = resource.getpagesize() * int(pages.read_text().split()[1]) if pages.exists() else 1
    seen = probe(job)
    assert seen.runs == 3 and seen.fit >= 0 and seen.build > 0 and seen.step > 0 and seen.peak >= before > 0
    got = forecast([job], 1)
    assert (got.runs, got.stacks) == (3, 1) and got.seconds > 0 and got.bytes >= seen.peak


@pytest.mark.slow
def test_a_forecast_is_near_the_time_that_passes(tmp_path: Path) -> None:
    settings = seeds(make("rloo", "arms", policy="linear", steps=600), range(8))
    seen = forecast(jobs_of(settings, 4), 1)
    pool, start = LocalPool(1), time.perf_counter()
    try:
        sweep(settings, Store(tmp_path), pool, stack=4, quiet=True)
    finally:
        pool.close()
    took = time.perf_counter() - start
    assert (seen.runs, seen.stacks) == (8, 2)
    assert took / 3 < seen.seconds < 3 * took
    assert seen.bytes > 100 * 2**20  # torch alone is larger


@pytest.mark.slow
def test_the_best_size_is_the_one_of_least_time_per_run() -> None:
    size, cost = best_size(TINY)
    assert tuple(cost) == SIZES and size in SIZES
    assert cost[size] == min(cost.values()) > 0
    assert cost[32] < cost[1]  # stacking pays where a run is tiny
