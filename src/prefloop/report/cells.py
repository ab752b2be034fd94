"""Runs in the order of a page: by method, then by settings, then by seed; seeds of the same settings as one column."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from prefloop.analysis.compare import difference
from prefloop.analysis.statistics import mean_se
from prefloop.core.metric_table import metric
from prefloop.report.data import Line, Run, flat, letter, load, named

OWN = ("seed", "output", "data.template_date")  # keys in which the runs of a cell may differ
ENDS = ("_se", "_low", "_high")


def columns(folders: Sequence[Path], labels: Sequence[str] | None = None) -> list[Run]:
    """The runs of a page: ordered and with seeds as one column, or exactly as given if they are named.

    Raises:
        UserError: not a run folder.
        DataError: a broken record.
    """
    runs = load(folders, labels)
    return runs if labels is not None else by_cell(ordered(runs))


def settings(run: Run) -> dict[str, Any]:
    """What the seeds of one cell have in common."""
    return {key: value for key, value in flat(run.config).items() if key not in OWN}


def ordered(runs: Sequence[Run]) -> list[Run]:
    """Methods in the order of their first run, then settings, then seeds; letters follow that order."""
    methods = list(dict.fromkeys(run.method for run in runs))
    first = sorted(runs, key=lambda run: (methods.index(run.method), _sortable(settings(run)), run.seed))
    return [replace(run, letter=letter(i)) for i, run in enumerate(first)]


def by_cell(runs: Sequence[Run]) -> list[Run]:
    """Neighbouring runs that differ only in their seeds as one run of means over seeds; others as they are."""
    groups = [list(group) for _, group in groupby(runs, key=lambda run: _sortable(settings(run)))]
    seeds = [{run.seed for run in group} for group in groups]
    several = [len(some) == len(group) > 1 for some, group in zip(seeds, groups, strict=True)]
    if not any(several):
        return list(runs)
    cells = []
    for is_cell, group in zip(several, groups, strict=True):
        cells += [merged(group)] if is_cell else group
    lettered = [replace(cell, letter=letter(i)) for i, cell in enumerate(cells)]
    names = named(lettered)
    return [
        _named(cell, name) if cell.members else replace(cell, label=name)
        for cell, name in zip(lettered, names, strict=True)
    ]


def _named(cell: Run, name: str) -> Run:
    members = [
        replace(run, letter=f"{cell.letter}{n}", label=f"{name} · seed {run.seed}")
        for n, run in enumerate(cell.members, 1)
    ]
    return replace(cell, label=f"{name} · {len(members)} seeds", members=tuple(members))


def merged(members: Sequence[Run]) -> Run:
    """Means over runs that differ in their seeds; errors and intervals are over seeds. Answers are of the first one."""
    first = members[0]
    return replace(
        first,
        config={key: value for key, value in first.config.items() if key not in OWN},
        steps=_means([run.steps for run in members]),
        evaluations=_means([run.evaluations for run in members], errors=True),
        timing=_means([run.timing for run in members]),
        members=tuple(members),
    )


def _means(records: Sequence[Sequence[Line]], *, errors: bool = False) -> list[Line]:
    """Line by line over the steps that all have."""
    columns = [{line["step"]: line for line in lines} for lines in records]
    steps = [step for step in columns[0] if all(step in column for column in columns)]
    return [{"step": step, **_mean([column[step] for column in columns], errors)} for step in steps]


def _mean(lines: Sequence[Line], errors: bool) -> Line:
    out: Line = {}
    for key in lines[0]:
        given = [line.get(key) for line in lines]
        values = [float(value) for value in given if isinstance(value, int | float)]
        if key == "step" or key.endswith(ENDS) or len(values) < len(lines):
            continue
        out[key] = fmean(values)
        if errors:
            out |= _errors(key, values, interval=f"{key}_low" in lines[0])
    return out


def _errors(key: str, values: list[float], *, interval: bool) -> Line:
    """The standard error over seeds, and the ends of the interval if it is known."""
    over, error = difference(values, unit="seeds"), {f"{key}_se": mean_se(values).se}
    if not interval or math.isnan(over.low):
        return error
    low, high = _possible(key, over.low, over.high)
    return {**error, f"{key}_low": low, f"{key}_high": high}


def _possible(key: str, low: float, high: float) -> tuple[float, float]:
    """The interval without values that a share cannot have."""
    known = metric(key)
    return (max(0.0, low), min(1.0, high)) if known is not None and known.unit == "share" else (low, high)


def _sortable(values: dict[str, Any]) -> list[tuple[str, int, float, str]]:
    """In the order of the configuration: numbers by size, everything else by its text."""
    return [(key, *_place(values[key])) for key in values]


def _place(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, 0.0, json.dumps(value, sort_keys=True, default=str)
