"""Shared code of the lab studies: the score, learning rates, curves and tables of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefloop.analysis.numbers import compact, fixed
from prefloop.core.metric_table import METRICS
from prefloop.lab.setting import Setting, make
from prefloop.lab.stack import Run
from prefloop.lab.summary import Cell, band, interval
from prefloop.report.chart import COUNT, Array, Chart, Line, Range, Table
from prefloop.worlds.arms.spec import REWARDS

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # candidate learning rates of Adam, tuned per cell at equal budgets
FAR, NEAR = REWARDS["far"], REWARDS["near"]
SCORE = (
    "Score: gold reward averaged over training (trapezoids over gradient steps), as a share of what can be gained,"
    " (r − r_ref)/(1 − r_ref), so that both rewards are on one scale; 0 is the reference, 1 the ceiling from the first"
    " step on. Learning rates are tried on seeds of their own, at equal budgets, and the best of each cell is used."
)

COUNTED = ("passes", "samples", "reward_queries", "eval/kl_reverse_exact")  # tables show their final values
SHOWN = ("ess", "kl/collection", "clip_ratio/region_mean", *COUNTED[:3], "push/up", "push/down", COUNTED[3])


def gain(run: Run) -> float:
    """Mean reward over training as a share of what could be gained over the reference."""
    start = float(run.curves["eval/gold"][0])
    return (run.mean("eval/gold") - start) / (run.setting.world.ceiling - start)


def gains(cells: Sequence[Cell]) -> Array:
    """Score of each seed, averaged over the cells: paired by seed with any other set of cells."""
    return np.stack([cell.values(gain) for cell in cells]).mean(0)


def at_equal_samples(reused: Cell, once: Cell) -> Array:
    """Mean gain over the samples of the reusing run, minus the other run's over the same number of samples."""
    pairs = zip(reused.runs, once.runs, strict=True)
    return np.array([_over_samples(a, a.last("samples")) - _over_samples(b, a.last("samples")) for a, b in pairs])


def _over_samples(run: Run, most: float) -> float:
    """Mean reward over the first `most` samples, as a share of the attainable gain."""
    grid = np.linspace(0, most, 200)
    reward = np.interp(grid, run.curves["samples"], run.curves["eval/gold"])
    start = float(reward[0])
    return float((np.trapezoid(reward, grid) / most - start) / (run.setting.world.ceiling - start))


def place(centre: float) -> str:
    """The reward's name, for titles."""
    return {FAR: "peak far (R1, arm 70)", NEAR: "peak near (R2, arm 20)"}.get(centre, f"peak at {centre:g}")


AXES = {"step": "gradient steps", "samples": "responses sampled", "reward_queries": "reward queries"}
NAMES = {"eval/gold": "gold reward", "eval/length": "tokens per response"}
SCORED: Range = (None, 1.0)
SCORE_AXIS = "score, share of the attainable gain"


def curves(title: str, cells: Sequence[Cell], labels: Sequence[str], *, x: str = "step", y: str = "eval/gold") -> Chart:
    """Interquartile mean over seeds with its 95 % band, one line per cell."""
    lines = [
        Line(label, cell.runs[0].curves[x].tolist(), *band(cell.curve(y)))
        for cell, label in zip(cells, labels, strict=True)
    ]
    ceiling = cells[0].setting.world.ceiling
    return Chart(
        title,
        AXES[x],
        NAMES.get(y, y),
        lines,
        guides={"ceiling": ceiling} if y == "eval/gold" else {},
        range=(None, ceiling) if y == "eval/gold" else COUNT,
        interval=over_seeds(cells[0]),
    )


def over_seeds(cell: Cell) -> str:
    """The meaning of middle and band of a figure."""
    return f"interquartile mean over {len(cell.runs)} seeds; band: 95 % bootstrap interval over seeds"


def middles(label: str, x: Sequence[Any], values: Array) -> Line:
    """Interquartile mean over seeds of values [x, seeds], with its 95 % interval."""
    return Line(label, x, *band(values.T))


def summary(title: str, cells: Sequence[Cell], head: Sequence[str], names: Sequence[Sequence[Any]]) -> Table:
    """One row per cell: its name and numbers; means over seeds, except for the score's IQM and interval.

    Args:
        head, names: headings of the leading columns, and their values per cell.
    """
    rows = []
    for cell, name in zip(cells, names, strict=True):
        edge = " (edge)" if cell.at_edge else ""
        seen = [compact(_mean(cell, column)) for column in SHOWN]
        score = str(interval(cell.values(gain)))
        rows.append([*name, f"{compact(cell.setting.lr)}{edge}", score, fixed(cell.last().mean()), *seen])
    return Table(title, [*head, "lr", "score, IQM [95 %]", "end reward", *(METRICS[key].title for key in SHOWN)], rows)


def _mean(cell: Cell, column: str) -> float:
    """Mean over seeds: of the final value for counters, otherwise of the mean over training."""
    if column in COUNTED:
        return float(cell.last(column).mean())
    known = cell.curve(column)[:, 1:]
    return float(known[np.isfinite(known)].mean()) if np.isfinite(known).any() else float("nan")


def by(cells: Sequence[Cell], keys: Sequence[Any]) -> dict[Any, Cell]:
    """Cells by the keys that they were made from."""
    return dict(zip(keys, cells, strict=True))


def arms(method: str, **changes: Any) -> Setting:
    """A setting of the arms with the published MLP; changes to the method go into `override`."""
    return make(method, "arms", **changes)


def sequences(method: str, **changes: Any) -> Setting:
    """A setting of the sequences with the stacked GPT."""
    return make(method, "sequences", **changes)
