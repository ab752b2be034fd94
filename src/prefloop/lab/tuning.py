"""How cells get a learning rate, and one more knob: on seeds of their own, until the best is inside what was tried.

The rounds and the rule of the choice are those of `lab.climb`. A knob is searched after the rate, at the chosen rate,
by the same rounds (the best is taken, none is safer). From there both move together, until no neighbour on the grid of
both is better on the seeds of the last halving round; the last round is one of rates, at the knob that was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from prefloop.analysis.numbers import compact
from prefloop.core.errors import UserError
from prefloop.lab.climb import Axis, Mark, Marks, axis, breaks, climb, confirm, mean, safer, summit
from prefloop.lab.scores import GOLD_OVER_TRAINING, Scoring
from prefloop.lab.setting import Setting, changed, names
from prefloop.lab.summary import TUNING, Cell, Sweep

STEP = math.sqrt(10)
RATES = (1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1)


@dataclass(frozen=True)
class Knob:
    """A hyper-parameter or field that is tuned beside the learning rate.

    Args:
        name: of an override such as `beta`, or of a field.
        values: candidates, ascending; the first may be 0 if the lower end is natural.
        start: the candidate at which the learning rate is tuned first.
        natural: whether the lower and upper end are bounds of the quantity, beyond which there is nothing to try.
        step: factor by which an end that is not natural grows.
    """

    name: str
    values: tuple[float, ...]
    start: float
    natural: tuple[bool, bool] = (False, False)
    step: float = STEP

    def __post_init__(self) -> None:
        _check_grid(self.name, self.values, self.step, zero=self.natural[0])
        if self.start not in self.values:
            raise UserError(f"`start` of the knob `{self.name}` must be one of its values, not {self.start!r}")


@dataclass(frozen=True)
class Search:
    """What is tried for one cell.

    Args:
        rates: first learning rates, ascending, each `step` times the one before.
        rounds: (how many candidates, on how many seeds in all), from every rate to the one that is chosen.
        grow: most steps by which a grid grows beyond each end.
    """

    rates: tuple[float, ...] = RATES
    knob: Knob | None = None
    rounds: tuple[tuple[int, int], ...] = ((7, 2), (3, 4), (1, 12))
    step: float = STEP
    grow: int = 4

    def __post_init__(self) -> None:
        _check_grid("rates", self.rates, self.step)
        if uneven := [b / a for a, b in pairwise(self.rates) if abs(b / a / self.step - 1) > 0.1]:
            what = f"a rate is {compact(uneven[0])} times the one before, not {compact(self.step)} times"
            raise UserError(what, where="rates", fix="use equal steps in log, as step says")
        many, seeds = zip(*self.rounds, strict=True)
        halving = all(a[0] > b[0] and a[1] < b[1] for a, b in pairwise(self.rounds))
        if many[0] != len(self.rates) or many[-1] != 1 or len(many) < 2 or seeds[0] < 1 or not halving:
            what = f"the rounds {self.rounds} do not go from {len(self.rates)} rates to 1, each on more seeds"
            raise UserError(what, where="rounds", fix=f"such as (({len(self.rates)}, 2), (3, 4), (1, 12))")
        if self.grow < 0:
            raise UserError(f"`grow` must be at least 0, not {self.grow}")


def _check_grid(name: str, values: Sequence[float], step: float, *, zero: bool = False) -> None:
    ascending = all(a < b for a, b in pairwise(values))
    low = values[0] if values else math.nan
    if len(values) < 2 or not ascending or not (low > 0 or (zero and low == 0)) or not math.isfinite(values[-1]):
        raise UserError(f"`{name}` must be two or more positive numbers in ascending order, not {values}")
    if not 1 < step < math.inf:
        raise UserError(f"`step` must be a factor above 1, not {step!r}")


class Point(NamedTuple):
    """A candidate."""

    rate: float
    knob: float | None = None


class Ask(NamedTuple):
    """A run that a search wants: of which cell, where, and on which of the tuning seeds, from 0."""

    cell: int
    point: Point
    seed: int


Tried = Mapping[Point, Marks]


# ----------------------------------------------------------------------------------------------------------- one cell


@dataclass(frozen=True)
class Found:
    """The end of a search."""

    point: Point
    interior: bool
    why: str


def look(search: Search, tried: Tried) -> dict[Point, int] | Found:
    """What to run next, as the seeds that points should have; or what was found."""
    knob, rates = search.knob, axis(search.rates, search.step, search.grow)
    *halving, (_, last) = search.rounds
    at, seeds, edges = None if knob is None else knob.start, halving[-1][1], []
    wanted, top = climb(rates, rates.first, halving, _known(tried, _line(rates, at)))
    if knob is not None and not wanted:
        line = axis(knob.values, knob.step, search.grow, knob.natural)
        found = _with_knob(rates, line, top, halving, tried, at)
        if isinstance(found, dict):
            return found
        top, peak = found
        at, edges = line.values[peak], [f"the {side} {knob.name}"] if (side := line.edge(peak)) else []
    held = top
    if not wanted:
        marks = _known(tried, _line(rates, at))
        choice = safer(marks, top, seeds)
        wanted, held = confirm(marks, choice, seeds, last)
        top = top if held == choice else held
    if wanted:
        return {Point(rates.values[i], at): n for i, n in wanted.items()}
    if side := rates.edge(top):
        edges.append(f"the {side} learning rate")
    point = Point(rates.values[held], at)
    return Found(point, not edges, _why(search, tried, point, edges, rates.values[top]))


def _with_knob(
    rates: Axis, line: Axis, top: int, halving: Sequence[tuple[int, int]], tried: Tried, start: float | None
) -> dict[Point, int] | tuple[int, int]:
    """What to run next for the knob: first at one rate, then around both; or the places of both that were found."""
    seeds = halving[-1][1]
    rate = safer(_known(tried, _line(rates, start)), top, seeds)
    along = [Point(rates.values[rate], value) for value in line.values]
    some, peak = climb(line, line.first, halving, _known(tried, along))
    if some:
        return {along[i]: n for i, n in some.items()}
    grid = {(i, j): Point(lr, value) for i, lr in enumerate(rates.values) for j, value in enumerate(line.values)}
    known = {pair: tried[point] for pair, point in grid.items() if point in tried}
    around, pair = summit((rates, line), (rate, peak), seeds, known)
    return {grid[pair]: n for pair, n in around.items()} if around else pair


def _line(rates: Axis, at: float | None) -> list[Point]:
    """Every rate, at a value of the knob."""
    return [Point(rate, at) for rate in rates.values]


def _known(tried: Tried, line: Sequence[Point]) -> dict[int, Marks]:
    """What was measured along a line, by place."""
    return {i: tried[point] for i, point in enumerate(line) if point in tried}


def _why(search: Search, tried: Tried, point: Point, edges: Sequence[str], best: float) -> str:
    """The result in words."""
    rates, runs = sorted({p.rate for p in tried}), tried[point]
    out = f"learning rate {compact(point.rate)} of {compact(rates[0])} to {compact(rates[-1])}"
    if best != point.rate:
        out += f", not distinguishable from {compact(best)}"
    if search.knob is not None and point.knob is not None:
        knobs = sorted({p.knob for p in tried if p.knob is not None})
        out += f"; {search.knob.name} {compact(point.knob)} of {compact(knobs[0])} to {compact(knobs[-1])}"
    if lost := sum(mark.broken for mark in runs):
        out += f"; {lost} of {len(runs)} runs broke"
    if edges:
        out += f"; the best is still {' and '.join(edges)} that may be tried: no verdict"
    return out


@dataclass(frozen=True)
class Tuned:
    """A cell at the learning rate, and knob, that were chosen for it.

    Args:
        setting: with both; its seed has no meaning.
        point: both.
        tried: scores and broken runs of every candidate, on tuning seeds 0, 1, ….
        interior: whether the best is not at an end of what was tried; if it is, nothing should be said of the cell.
        why: the choice in words.
    """

    setting: Setting
    point: Point
    tried: Tried
    interior: bool
    why: str

    @property
    def runs(self) -> int:
        """Tuning runs."""
        return sum(map(len, self.tried.values()))

    @property
    def steps(self) -> int:
        """Gradient steps of all tuning runs."""
        return self.runs * self.setting.steps

    @property
    def scores(self) -> dict[Point, float]:
        """Mean score of each candidate."""
        return {point: mean(marks) for point, marks in sorted(self.tried.items())}

    @property
    def rates(self) -> dict[float, float]:
        """Mean score of each learning rate, at the chosen knob."""
        return {point.rate: score for point, score in self.scores.items() if point.knob == self.point.knob}

    @property
    def breaks(self) -> dict[Point, float]:
        """Share of each candidate's runs that broke."""
        return {point: breaks(marks) for point, marks in sorted(self.tried.items())}


# --------------------------------------------------------------------------------------------------------- many cells


def explore(searches: Sequence[Search], measure: Callable[[list[Ask]], Sequence[Mark]]) -> list[dict[Point, Marks]]:
    """All searches in step: each round asks once, for what every cell wants next."""
    tried: list[dict[Point, Marks]] = [{} for _ in searches]
    while True:
        found = [look(search, own) for search, own in zip(searches, tried, strict=True)]
        asks = [
            Ask(cell, point, seed)
            for cell, wanted in enumerate(found)
            if not isinstance(wanted, Found)
            for point, seeds in wanted.items()
            for seed in range(len(tried[cell].get(point, ())), seeds)
        ]
        if not asks:
            return tried
        for ask, mark in zip(asks, measure(asks), strict=True):
            tried[ask.cell][ask.point] = (*tried[ask.cell].get(ask.point, ()), mark)


def tune(
    cells: Sequence[Setting], search: Search | Sequence[Search], sweep: Sweep, scoring: Scoring = GOLD_OVER_TRAINING
) -> list[Tuned]:
    """Every cell at the rate, and knob, that its search chooses; one sweep for each round of all cells.

    Args:
        search: for all cells, or one for each.
    """
    searches = each(cells, search)

    def measure(asks: list[Ask]) -> list[Mark]:
        runs = sweep([placed(cells[a.cell], searches[a.cell], a.point, TUNING + a.seed) for a in asks])
        return [scoring(run) for run in runs]

    every = explore(searches, measure)
    return [outcome(cell, one, tried) for cell, one, tried in zip(cells, searches, every, strict=True)]


def compared(tuned: Sequence[Tuned], seeds: Sequence[int], sweep: Sweep) -> list[Cell]:
    """The cells over the seeds of a comparison, at what was chosen for them.

    Raises:
        UserError: a seed is one of tuning.
    """
    if any(seed >= TUNING for seed in seeds):
        raise UserError(f"the seeds from {TUNING} on are those of tuning", fix="compare on others")
    runs, n = sweep([replace(t.setting, seed=s) for t in tuned for s in seeds]), len(seeds)
    return [Cell(t.setting, runs[i * n : (i + 1) * n], t.rates, not t.interior) for i, t in enumerate(tuned)]


def each(cells: Sequence[Setting], search: Search | Sequence[Search]) -> Sequence[Search]:
    return [search] * len(cells) if isinstance(search, Search) else search


def outcome(cell: Setting, search: Search, tried: Tried) -> Tuned:
    found = look(search, tried)
    assert isinstance(found, Found)
    return Tuned(placed(cell, search, found.point, cell.seed), found.point, tried, found.interior, found.why)


def placed(cell: Setting, search: Search, point: Point, seed: int) -> Setting:
    """The cell at a point."""
    here = replace(cell, lr=point.rate, seed=seed)
    if search.knob is None:
        return here
    name, value = search.knob.name, point.knob
    if name in (*names(Setting), *names(type(cell.world))):
        return changed(here, **{name: value})
    return replace(here, override={**here.override, name: value})
