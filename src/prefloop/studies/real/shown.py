"""What the study shows: gold against KL, every run, learning, and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from prefloop.analysis.compare import LEAST_SEEDS, crossed
from prefloop.analysis.numbers import compact, fixed, interval
from prefloop.analysis.statistics import mean_se
from prefloop.report.chart import ANY, Array, Chart, Line, Table, frontier
from prefloop.report.data import load
from prefloop.studies.page import RATES
from prefloop.studies.real.budget import Course, gains, score, stop
from prefloop.studies.real.cells import METHODS, REWARDS
from prefloop.studies.real.rates import Chosen

Key = tuple[str, str]  # of REWARDS and METHODS
Courses = Mapping[Key, Mapping[int, Course]]  # by seed
UNIT = "standard deviations of gold"
HEAD = ("reward", "method", "learning rate", "score by rate, one tuning seed", "seeds", "score")
ENDS = ("KL there, nats", "KL at the end", "gain at the end", "responses sampled", "minutes per run")


def figures(courses: Courses, units: Mapping[str, float], budget: float) -> dict[str, Sequence[Chart]]:
    """Of each reward: gold against KL and against steps, and the score of every run."""
    out: dict[str, Sequence[Chart]] = {}
    for reward, unit in units.items():
        own = {method: list(courses[reward, method].values()) for method in METHODS}
        title = REWARDS[reward].title
        out[reward] = [_frontier(title, own, unit), _learning(title, own, unit)]
        out[f"{reward}-scores"] = [_every(title, own, unit, budget)]
    return out


def _frontier(title: str, own: Mapping[str, Sequence[Course]], unit: float) -> Chart:
    lines = []
    for method, runs in own.items():
        kl, gain = np.stack([run.log_ratio.mean(1) for run in runs]), np.stack([_gain(run, unit) for run in runs])
        ends = {"left": kl.min(0), "right": kl.max(0), "low": gain.min(0), "high": gain.max(0)}
        lines.append(Line(method, kl.mean(0).tolist(), gain.mean(0), **ends))
    said = f"mean over {_seeds(own)} at each evaluation; bars: the lowest and the highest of them"
    return frontier(f"{title}: gold against KL", lines, y=f"gain, {UNIT}", interval=said)


def _learning(title: str, own: Mapping[str, Sequence[Course]], unit: float) -> Chart:
    lines = []
    for method, runs in own.items():
        gain = np.stack([_gain(run, unit) for run in runs])
        lines.append(Line(method, runs[0].steps, gain.mean(0), gain.min(0), gain.max(0)))
    said = f"against steps: mean over {_seeds(own)}; band: the lowest and the highest of them"
    return Chart(f"{title}: learning", "gradient steps", f"gain, {UNIT}", lines, range=ANY, interval=said)


def _every(title: str, own: Mapping[str, Sequence[Course]], unit: float, budget: float) -> Chart:
    lines = [
        Line(method, [score(run, budget, unit) for run in runs], [row + 0.1 * (i % 3 - 1) for i in range(len(runs))])
        for row, (method, runs) in enumerate(own.items())
    ]
    said = f"one point per seed, {_seeds(own)}"
    name = f"{title}: every run, largest gain within {budget:g} nats"
    return Chart(name, f"gain, {UNIT}", "", lines, kind="points", guides={"reference": 0.0}, rows=[*own], interval=said)


def _gain(run: Course, unit: float) -> Array:
    gain: Array = (run.gold - run.gold[0]).mean(1) / unit
    return gain


def _seeds(own: Mapping[str, Sequence[Course]]) -> str:
    counts = sorted({len(runs) for runs in own.values()})
    return "one seed" if counts == [1] else f"{' to '.join(map(str, counts))} seeds"


def conditions(
    courses: Courses,
    folders: Mapping[Key, Sequence[Path]],
    chosen: Mapping[Key, Chosen],
    units: Mapping[str, float],
    budget: float,
) -> Table:
    """One row per condition: how its rate was chosen, its score, and the KL at which it has it."""
    rows: list[list[Any]] = []
    for (reward, method), own in courses.items():
        rate, runs = chosen[reward, method], list(own.values())
        tried = ", ".join(f"{compact(lr)}: {fixed(x, 2)}" for lr, x in rate.tried.items())
        there = [float(stop(run, budget).of(run.log_ratio.mean(1))) for run in runs]
        ends = [[run.log_ratio[-1].mean() for run in runs], [_gain(run, units[reward])[-1] for run in runs]]
        told = load(list(folders[reward, method]))
        sampled = round(fmean(one.last("samples") or 0.0 for one in told))
        minutes = round(fmean(one.seconds or 0.0 for one in told) / 60, 1)
        rows.append(
            [
                *(REWARDS[reward].title, method, compact(rate.rate) + (" (edge)" if rate.edge else ""), tried),
                *(len(runs), _over([score(run, budget, units[reward]) for run in runs]), _over(there)),
                *(*map(_over, ends), sampled, minutes),
            ]
        )
    return Table(RATES, [*HEAD, *ENDS], rows)


def within(
    courses: Courses, units: Mapping[str, float], budget: float, versus: Mapping[str, tuple[str, str, str]]
) -> Table:
    """The effects at another budget, which are not judged; no interval with fewer seeds than a verdict needs."""
    rows = []
    for name, (reward, better, worse) in versus.items():
        a, b = (
            {seed: gains(run, budget, units[reward]) for seed, run in courses[reward, method].items()}
            for method in (better, worse)
        )
        seen = crossed(a, b)
        told = interval(seen.value, seen.low, seen.high, sign=True) if len(a) >= LEAST_SEEDS else "too few seeds"
        rows.append([name, told])
    return Table(f"The same effects within {budget:g} nats, not judged ({UNIT})", ["claim", "effect"], rows)


def _over(values: Sequence[float]) -> str:
    """Mean over seeds, with its standard error if there are several."""
    return str(mean_se(values)) if len(values) > 1 else fixed(values[0])
