"""Several runs from one command line: every combination of the listed values, and what they gave over their seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.runs.schema import word

if TYPE_CHECKING:
    from prefloop.report.data import Run

SHOWN = (  # the first that the runs have, at most COLUMNS of them
    "eval/reward",
    "eval/rewards/accuracies",
    "eval/accuracy/mean_logp",
    "eval/labels/auc",
    "eval/loss",
    "eval/kl_reverse",
    "eval/tokens/length",
)
COLUMNS = 3


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed only."""

    label: str
    runs: tuple[Run, ...]


def labels(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each combination, from the values in which they differ: `dpo, beta 0.1, seed 0`."""
    flat = [dict(_leaves(tree)) for tree in trees]
    axes = [key for key in flat[0] if len({repr(one[key]) for one in flat}) > 1]
    return [", ".join(_named(key, one[key]) for key in axes) for one in flat]


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _named(key: str, value: Any) -> str:
    return word(value) if key == "method" else f"{key.rpartition('.')[2]} {word(value)}"


def cells(folders: Mapping[str, Path]) -> list[Cell]:
    """The runs of a grid without their seeds, in the order of the grid."""
    from prefloop.report.data import load

    grouped: dict[str, list[Run]] = {}
    for label, run in zip(folders, load(list(folders.values()), list(folders)), strict=True):
        rest = ", ".join(part for part in label.split(", ") if not part.startswith("seed "))
        grouped.setdefault(rest or run.method, []).append(run)
    return [Cell(label, tuple(runs)) for label, runs in grouped.items()]


def columns(cells: Sequence[Cell]) -> list[str]:
    """The held-out numbers that every run has, the most telling first."""
    runs = [run for cell in cells for run in cell.runs]
    return [key for key in SHOWN if all(run.after(key) is not None for run in runs)][:COLUMNS]


def summary(cell: Cell, key: str) -> dict[str, float]:
    """A held-out number after training: its interquartile mean over the seeds and a bootstrap interval, as in the lab.

    One seed has the number alone: its interval over held-out questions is in the run's own table.
    """
    from prefloop.analysis.statistics import iqm, stratified_bootstrap

    values = [float(after.value) for run in cell.runs if (after := run.after(key)) is not None]
    if len(values) == 1:
        return {"value": values[0]}
    found = stratified_bootstrap([[value] for value in values], iqm, seed=0)
    return {"value": found.value, "low": found.low, "high": found.high}


def record(cells: Sequence[Cell]) -> dict[str, Any]:
    """The result for JSON."""
    return {
        "cells": [
            {
                "cell": cell.label,
                "runs": [str(run.path) for run in cell.runs],
                **{key: summary(cell, key) for key in columns(cells)},
            }
            for cell in cells
        ]
    }


def show(cells: Sequence[Cell], output: str) -> None:
    """Print one row for each cell, at most 80 columns wide."""
    from rich.console import Console
    from rich.table import Table

    from prefloop.analysis.numbers import interval, number

    shown = columns(cells)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("cell")
    for title in ("seeds", *(key.removeprefix("eval/") for key in shown)):
        table.add_column(title, justify="right", overflow="fold")
    for cell in cells:
        found = [summary(cell, key) for key in shown]
        texts = [interval(x["value"], x["low"], x["high"]) if "low" in x else number(x["value"]) for x in found]
        table.add_row(cell.label, str(len(cell.runs)), *texts)
    Console().print(table)
    if any(len(cell.runs) > 1 for cell in cells):
        print("held-out, after training: interquartile mean over seeds [95 % bootstrap interval]")
    print(f"next: prefloop report {output}/*/")
