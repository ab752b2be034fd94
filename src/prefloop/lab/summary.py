"""From runs to numbers with intervals: cells of a grid, their learning rates, tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.analysis.numbers import NONE, compact
from prefloop.analysis.numbers import interval as written
from prefloop.analysis.statistics import Interval, iqm, stratified_bootstrap
from prefloop.core import notebook
from prefloop.lab.setting import Setting, to_dict
from prefloop.lab.stack import Run

Array = NDArray[np.float64]
Sweep = Callable[[Sequence[Setting]], list[Run]]
Middle = Callable[[Array], Array]
RESAMPLES = 1000  # number of resamples for a band
TUNING = 1000  # tuning seeds start here, so that they differ from the seeds of the comparison


def over_training(run: Run) -> float:
    """Mean gold reward over training: how fast and how high."""
    return run.mean("eval/gold")


def iqms(curves: Array) -> Array:
    """Interquartile means over the units of [..., units, evaluations]; nan if a unit has no value."""
    cut = curves.shape[-2] // 4
    ordered = np.sort(curves, axis=-2)[..., cut : curves.shape[-2] - cut, :]
    return np.where(np.isnan(curves).any(-2), np.nan, ordered.mean(-2))


def means(curves: Array) -> Array:
    """Means over the units of [..., units, evaluations]."""
    out: Array = curves.mean(-2)
    return out


@dataclass(frozen=True)
class Cell:
    """A cell of a grid: its runs over seeds, at the learning rate chosen for it on other seeds."""

    setting: Setting  # with the chosen learning rate; its seed has no meaning
    runs: Sequence[Run]
    tried: dict[float, float]  # learning rate -> mean score on the tuning seeds; empty if there was only one rate
    edge: bool | None = None  # whether tuning ended at an edge, where it knows better than the rates that were tried

    def values(self, score: Callable[[Run], float]) -> Array:
        """The score of each seed, in order."""
        return np.array([score(run) for run in self.runs])

    def last(self, column: str = "eval/gold") -> Array:
        return self.values(lambda run: run.last(column))

    def mean(self, column: str = "eval/gold") -> Array:
        """Mean over training, per seed."""
        return self.values(lambda run: run.mean(column))

    def curve(self, column: str) -> Array:
        """[seeds, evaluations]"""
        return np.stack([run.curves[column] for run in self.runs])

    @property
    def at_edge(self) -> bool:
        """Whether the chosen learning rate is the lowest or highest candidate, or better ones may lie outside."""
        if self.edge is not None:
            return self.edge
        return bool(self.tried) and self.setting.lr in (min(self.tried), max(self.tried))


def tuned(
    cells: Sequence[Setting],
    rates: Sequence[float],
    seeds: Sequence[int],
    tuning: int,
    sweep: Sweep,
    score: Callable[[Run], float] = over_training,
) -> list[Cell]:
    """Every cell at the learning rate that scores best on tuning seeds, with equal budgets for all rates.

    Args:
        rates: candidates; a single one is used without tuning.
        seeds: seeds of the comparison.
        tuning: number of tuning seeds.
    """
    scores: list[dict[float, float]] = [{} for _ in cells]
    if len(rates) > 1:
        own = [TUNING + i for i in range(tuning)]
        tried = sweep([replace(c, lr=lr, seed=s) for c in cells for lr in rates for s in own])
        marks = np.array([score(r) if r.last("diverged") == 0 else -np.inf for r in tried])
        table = marks.reshape(len(cells), len(rates), tuning).mean(-1)
        scores = [dict(zip(rates, map(float, row), strict=True)) for row in table]
    chosen = [replace(c, lr=max(f, key=f.__getitem__) if f else rates[0]) for c, f in zip(cells, scores, strict=True)]
    runs = sweep([replace(c, seed=s) for c in chosen for s in seeds])
    n = len(seeds)
    return [Cell(c, runs[i * n : (i + 1) * n], f) for i, (c, f) in enumerate(zip(chosen, scores, strict=True))]


def interval(values: Array, seed: int = 0) -> Interval:
    """Interquartile mean over seeds with its 95 % stratified-bootstrap interval (Agarwal et al. 2021)."""
    return stratified_bootstrap(values[:, None], iqm, seed=seed)


def band(curves: Array, middle: Middle = iqms, seed: int = 0) -> tuple[Array, Array, Array]:
    """The middle over independent units at each evaluation, and the ends of its 95 % bootstrap interval.

    Whole units are resampled, so that the band stays inside the quantity's range.

    Args:
        curves: [units, evaluations]; units are seeds, or prompts.
        middle: reduces [..., units, evaluations] over units; interquartile means by default.

    Returns:
        middle, low end and high end, each [evaluations]; nan if a unit has no value.
    """
    units = len(curves)
    places = np.random.default_rng(seed).integers(units, size=(RESAMPLES, units))
    low, high = np.quantile(middle(curves[places]), (0.025, 0.975), axis=0)
    return middle(curves), low, high


def differences(
    settings: Sequence[Setting], *, ignore: Sequence[str] = ("seed", "lr", "steps")
) -> list[dict[str, Any]]:
    """The differences between settings: for each, the values of fields and overrides that are not equal in all."""
    flat = []
    for setting in settings:
        tree = to_dict(setting)
        values = {**tree, **tree["world"], **setting.override}
        flat.append({k: v for k, v in values.items() if k not in ("world", "override", *ignore)})
    names = [k for k in dict.fromkeys(k for f in flat for k in f) if len({repr(f.get(k, "–")) for f in flat}) > 1]
    return [{k: f.get(k, "–") for k in names} for f in flat]


# ---- for notebooks and scripts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Runs as cells, one per setting over its seeds; a table in a notebook, and in print."""

    cells: Sequence[Cell]

    @property
    def head(self) -> tuple[str, ...]:
        return ("method", *self._differing[0], "lr", "reward, IQM [95 %]", "KL", "seeds", "diverged")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Words and numbers of each cell, at the end of training."""
        out = []
        for cell, differs in zip(self.cells, self._differing, strict=True):
            end, kl = interval(cell.last()), "eval/kl_reverse_exact"
            words = [compact(v) if isinstance(v, float) else str(v) for v in (*differs.values(), cell.setting.lr)]
            far = compact(float(cell.last(kl).mean())) if kl in cell.runs[0].curves else NONE
            lost = str(int(cell.last("diverged").sum()))
            out.append(
                (cell.setting.method, *words, written(end.value, end.low, end.high), far, str(len(cell.runs)), lost)
            )
        return out

    @property
    def _differing(self) -> list[dict[str, Any]]:
        return differences(
            [cell.setting for cell in self.cells], ignore=("method", "seed", "lr", "evaluate", "spacing")
        )

    def _repr_html_(self) -> str:
        return notebook.table("Gold reward at the end of training", self.head, self.rows)

    def __str__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def summary(runs: Sequence[Run]) -> Summary:
    """The runs of a sweep, compared: settings that differ in their seeds only are one cell."""
    cells: dict[str, list[Run]] = {}
    for run in runs:
        cells.setdefault(_key(run.setting), []).append(run)
    return Summary([Cell(own[0].setting, own, {}) for own in cells.values()])


def _key(setting: Setting) -> str:
    return json.dumps(to_dict(replace(setting, seed=0)), sort_keys=True)
