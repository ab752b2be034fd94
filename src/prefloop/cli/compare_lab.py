"""Runs of the lab as the cells of a comparison: a folder that `prefloop lab` or a study wrote, or its store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prefloop.analysis.numbers import compact
from prefloop.core.errors import DataError
from prefloop.report.compared import COSTS, Cell, Need

if TYPE_CHECKING:  # torch is imported only to read something, so that --help is fast
    from prefloop.lab.stack import Run
    from prefloop.lab.summary import Cell as LabCell

GOLD, KL = "eval/gold", "eval/kl_reverse_exact"
RESULT, STORE = "results.parquet", "runs"
CLOSE = 1e-4  # relative difference of what is the same number, in stacks of other sizes


def is_lab(folder: Path) -> bool:
    """Whether a folder holds runs of the lab."""
    return any(next(place.glob("*.parquet"), None) for place in (folder, folder / STORE))


def cells_of_lab(folder: Path) -> tuple[list[Cell], list[str]]:
    """The cells of a folder; of a bare store all but the runs that tuned learning rates.

    Raises:
        DataError: no runs that this version reads.
    """
    from prefloop.lab.summary import summary

    runs, notes = _runs(folder)
    cells = summary(runs).cells
    kinds, labels = _kinds(cells), _labels(cells)
    return [_cell(cell, kinds[i], labels[i]) for i, cell in enumerate(cells)], notes


def _runs(folder: Path) -> tuple[list[Run], list[str]]:
    import pyarrow.parquet as pq

    from prefloop.lab.store import read
    from prefloop.lab.summary import TUNING

    result, store = folder / RESULT, folder / STORE if (folder / STORE).is_dir() else folder
    wanted = set(pq.read_table(result, columns=["run"])["run"].to_pylist()) if result.is_file() else None
    found = [run for file in sorted(store.glob("*.parquet")) if file != result for run in read(file)]
    runs = list({run.setting.run: run for run in found if wanted is None or run.setting.run in wanted}.values())
    if lacking := len(wanted or ()) - len(runs) if wanted is not None else 0:
        what = f"{lacking} of {len(wanted or ())} runs are not in the store, or are of another version of Prefloop"
        raise DataError(what, where=str(store), fix="run `prefloop lab` again with the same flags")
    notes = []
    if wanted is None and (tuning := [run for run in runs if run.setting.seed >= TUNING]):
        runs = [run for run in runs if run.setting.seed < TUNING]
        notes = [f"left out of {folder}: {len(tuning)} runs that tuned learning rates"]
    if not runs:
        raise DataError("no runs that this version of Prefloop reads", where=str(folder), fix="run the lab again")
    return runs, notes


def _labels(cells: Sequence[LabCell]) -> list[str]:
    from prefloop.lab.summary import differences

    differing = differences([cell.setting for cell in cells], ignore=("method", "seed", "evaluate", "spacing"))
    return [
        " · ".join([cell.setting.method, *(f"{k} {_short(v)}" for k, v in own.items()), f"{len(cell.runs)} seeds"])
        for cell, own in zip(cells, differing, strict=True)
    ]


def _short(value: Any) -> str:
    return compact(value) if isinstance(value, float) else str(value)


def _kinds(cells: Sequence[LabCell]) -> list[int]:
    """A number for each cell; equal if they start alike: one reference, one gold reward, the same evaluation."""
    out: list[int] = []
    for i, cell in enumerate(cells):
        out.append(next((out[j] for j, other in enumerate(cells[:i]) if _start_alike(cell, other)), i))
    return out


def _start_alike(a: LabCell, b: LabCell) -> bool:
    """By the gold reward before training on each seed in common; without one, by the problem's fields."""
    if a.setting.problem != b.setting.problem:
        return False
    mine, theirs = ({run.setting.seed: float(run.curves[GOLD][0]) for run in cell.runs} for cell in (a, b))
    shared = mine.keys() & theirs.keys()
    if not shared:
        return a.setting.world == b.setting.world
    return all(math.isclose(mine[s], theirs[s], rel_tol=CLOSE, abs_tol=CLOSE**2) for s in shared)


def _cell(cell: LabCell, kind: int, label: str) -> Cell:
    ends = {run.setting.seed: run.last(GOLD) for run in cell.runs}
    scores = {seed: {"": value} for seed, value in ends.items() if math.isfinite(value)}
    needs = {
        "problem": Need(cell.setting.problem, cell.setting.problem),
        "start (reference or gold reward)": Need(kind),
    }
    known = [key for key in COSTS if key in cell.runs[0].curves]
    return Cell(
        label=label,
        method=cell.setting.method,
        runs=tuple(run.setting.run for run in cell.runs),
        scores={"gold": scores} if scores else {},
        needs={"gold": needs},
        paths={"gold": {run.setting.seed: _path(run) for run in cell.runs}} if KL in cell.runs[0].curves else {},
        costs={key: fmean(run.last(key) for run in cell.runs) for key in known},
        fresh=True,
        diverged=int(cell.last("diverged").sum()),
    )


def _path(run: Run) -> list[tuple[float, float]]:
    return [(float(kl), float(gold)) for kl, gold in zip(run.curves[KL], run.curves[GOLD], strict=True)]
