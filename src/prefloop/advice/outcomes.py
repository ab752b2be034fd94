"""What every action is worth on a problem: J_β after tuning, on other seeds, and how often a run breaks.

The value of a run is the share of the attainable gain in J_β at the evaluation that its user would keep: 1 is the
optimum (`lab.scores.Objective`), 0 the run's own reference, whose distance from the law is thus no gain. Rates and
knobs are found by successive halving on seeds of their own, as in the studies, with fewer runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prefloop.advice.actions import ACTIONS, Action
from prefloop.advice.features import FEATURES
from prefloop.advice.in_lab import knob_of, setting
from prefloop.advice.prior import Problem
from prefloop.advice.table import Table
from prefloop.analysis import headroom as seen
from prefloop.analysis.numbers import compact
from prefloop.core.files import digest
from prefloop.lab.scores import GOLD, Objective, Scoring
from prefloop.lab.setting import Setting, seeds
from prefloop.lab.stack import Run, build
from prefloop.lab.tuning import Search, tune
from prefloop.worlds.optimum import optimum

Array: TypeAlias = NDArray[np.float64]
Sweep: TypeAlias = Callable[[Sequence[Setting]], Sequence[Run]]

BANDIT = (3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 1e-1, 3.2e-1)
RATES = {  # all at once: a stack of twenty runs takes little longer than one of two
    "rotated": BANDIT,
    "sequences": BANDIT,
    "lengths": (3.2e-6, 1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2),
}
DEAR = ("lengths",)
NO_GAIN = "hardly anything can be gained over the reference"
LEAST = 0.02  # of the range of gold, which is 1: less is no gain, and a fraction of it no measure
SURE = 10.0  # the attainable gain must be so many times the deviation of the references' J from what is known
BROKEN = 1.0  # attainable gains below its reference, beyond which a run is broken
STARTS = 4  # references of which that is measured


@dataclass(frozen=True)
class Scale:
    """How many runs an action gets.

    Args:
        rounds: of tuning, see `lab.tuning.Search`.
        seeds: of the comparison; one half chooses the best action, the other scores it.
        dear: rounds of tuning in worlds where a run takes seconds.
    """

    rounds: tuple[tuple[int, int], ...] = ((9, 2), (1, 4))
    seeds: int = 8
    dear: tuple[tuple[int, int], ...] = ((5, 1), (1, 3))

    def runs(self, world: str) -> dict[str, Any]:
        """What a world's actions get: all that their outcomes depend on."""
        return {"rounds": self.dear if world in DEAR else self.rounds, "seeds": self.seeds}

    def search(self, problem: Problem, action: Action) -> Search:
        """Rates from the middle of the world's, as many as the first round tries."""
        rounds = self.runs(problem.kind)["rounds"]
        rates, many = RATES[problem.kind], rounds[0][0]
        skip = (len(rates) - many) // 2
        return Search(rates[skip : skip + many], knob=knob_of(action), rounds=rounds, grow=0)


SHORT = ((3, 1), (1, 2))
FULL, SMOKE = Scale(), Scale(SHORT, 2, SHORT)


@dataclass(frozen=True)
class Result:
    """One action on one problem.

    Args:
        rate, knob: what was chosen.
        interior: whether the best was inside what was tried.
        tuning: runs that chose them.
        values: share of the attainable gain that is kept, by seed.
        ends: the same at the end of training, without early stopping.
    """

    rate: float
    knob: float
    interior: bool
    tuning: int
    values: tuple[float, ...]
    ends: tuple[float, ...]

    @property
    def broke(self) -> tuple[bool, ...]:
        """Whether the run, trained to its end, diverged or lost more than there was to gain."""
        return tuple(not end >= -BROKEN for end in self.ends)


@dataclass(frozen=True)
class Outcome:
    """All actions on one problem.

    Args:
        key: of the problem, the actions and the number of runs.
        no_headroom: why the problem was dropped before training; empty if it was not.
        results: by action; empty if it was dropped.
        features: measured before training, with errors or the reason why there is none.
    """

    problem: str
    key: str
    no_headroom: str
    results: Mapping[str, Result]
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Array]:
        """[seeds] by action."""
        return {name: np.array(one.values) for name, one in self.results.items()}

    @property
    def alike(self) -> str:
        """Why the actions cannot be told apart, seen afterwards; empty if they can."""
        return seen.headroom(self.values) if self.results else self.no_headroom


def objective(problem: Problem) -> Objective:
    """J at the problem's β."""
    return Objective(problem.beta, *optimum(problem.world, problem.beta))


def no_headroom(problem: Problem) -> str:
    """Why nothing could be seen on a problem, known before any training; empty if something could.

    The gain that is attainable must be at least 2 % of the range of gold, and ten times as large as the deviation of
    the fitted references from the law by which zero of the scale is known: root mean square over a few seeds.
    """
    known = optimum(problem.world, problem.beta)
    gain = known.best - known.reference
    if not LEAST <= gain < math.inf:
        return NO_GAIN
    plain = replace(problem.world, scorer="gold")  # type: ignore[type-var]
    one = setting(replace(problem, world=plain), next(iter(ACTIONS.values())))
    training = build(seeds(one, range(STARTS)))
    policy, loop = training.loop.policy, training.loop
    start = training.evaluate(policy, loop.reference, loop.rng["evaluation"])[GOLD].double()
    off = float((start - known.reference).square().mean().sqrt())
    if gain >= SURE * off:
        return ""
    what = f"the attainable gain, {compact(gain)}, is less than {compact(SURE)} times what the start is uncertain by"
    return f"{what}, {compact(off)}"


def measure(problem: Problem, run: Sweep, scale: Scale = FULL) -> Outcome:
    """Tune every action, and compare them on other seeds; nothing if there is no headroom."""
    key = key_of(problem, scale)
    if reason := no_headroom(problem):
        return Outcome(problem.name, key, reason, {})
    aim = objective(problem)
    scoring = Scoring(aim.early, broken=lambda run: False, reference=lambda run: 0.0)  # early stopping leaves the break
    cells = [setting(problem, action) for action in ACTIONS.values()]
    searches = [scale.search(problem, action) for action in ACTIONS.values()]
    tuned = tune(cells, searches, lambda asked: list(run(asked)), scoring)
    runs = run([replace(one.setting, seed=seed) for one in tuned for seed in range(scale.seeds)])
    results = {}
    for i, (name, one) in enumerate(zip(ACTIONS, tuned, strict=True)):
        own = runs[i * scale.seeds : (i + 1) * scale.seeds]
        starts = [float(aim.curve(x)[0]) for x in own]
        kept = [aim.early(x) - start for x, start in zip(own, starts, strict=True)]
        results[name] = Result(
            one.point.rate,
            float(one.point.knob or 0.0),
            one.interior,
            one.runs,
            tuple(value if math.isfinite(value) else 0.0 for value in kept),
            tuple(aim.end(x) - start for x, start in zip(own, starts, strict=True)),
        )
    return Outcome(problem.name, key, "", results)


def key_of(problem: Problem, scale: Scale) -> str:
    """A hash of what determines the outcomes."""
    return digest([problem.key, scale.runs(problem.kind), [repr(action) for action in ACTIONS.values()]])


def tabulated(outcomes: Sequence[Outcome]) -> Table:
    """The problems that were not dropped before training. A run that lost more than there was to gain counts as having
    lost that: by how much it lost beyond it tells nothing of other problems.

    Raises:
        ValueError: there is none.
    """
    some = [one for one in outcomes if one.results]
    if not some:
        raise ValueError("no problem has outcomes")

    def of(name: str) -> Array:
        return np.array([[getattr(one.results[a], name) for a in ACTIONS] for one in some], dtype=np.float64)

    features = [[one.features.get(name, {}).get("value", math.nan) for name in FEATURES] for one in some]
    return Table(
        tuple(one.problem for one in some),
        tuple(one.problem.rpartition("-")[0] for one in some),
        tuple(FEATURES),
        np.array(features, dtype=np.float64),
        np.maximum(of("values"), -BROKEN),
        of("broke"),
        tuple(ACTIONS),
    )
