"""A comparison as one self-contained page: verdict, differences, frontier, costs, and the JSON behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from prefloop.analysis.frontier import Path as Curve
from prefloop.analysis.numbers import NONE, compact, number
from prefloop.report.chart import Chart, Line
from prefloop.report.chart import frontier as chart_of
from prefloop.report.compared import COSTS, Cell, Comparison, Family, Row
from prefloop.report.compared_words import against_zero, chance, frontier, reached, record, remarks, verdicts
from prefloop.report.data import clean
from prefloop.report.figures import WIDTH, Drawn
from prefloop.report.layout import figure
from prefloop.report.page import as_script, environment, save, style
from prefloop.report.panel import thin
from prefloop.report.svg import inline

LIMIT = 1_500_000  # bytes
MARKERS = 160  # per plot, over all its curves


def write(comparison: Comparison, out: Path, *, command: str = "") -> Path:
    """Write the page; an existing one is replaced.

    Raises:
        UserError: so many cells that the page would exceed 1.5 MB.
    """
    page = render(comparison, command=command)
    return save(page, out, limit=LIMIT, fix="compare fewer runs on one page")


def render(comparison: Comparison, *, command: str = "") -> str:
    """The page as text."""
    families: list[dict[str, Any]] = [
        {
            "measure": family.measure.name,
            "cells": [row.cell for row in family.rows],
            "places": {row.cell.letter: place for place, row in enumerate(family.rows)},
            "hero": differences(family),
            "head": head(family),
            "costs": [COSTS[key] for key in _costs(family)],
            "rows": [cells(row, _costs(family)) for row in family.rows],
            "figures": [drawn for drawn in (_frontier(family, "gold"), _frontier(family, "reward")) if drawn],
            "at_kl": list(frontier(family)),
        }
        for family in comparison.families
    ]
    said = [text for text in remarks(comparison) if not any(text in family["at_kl"] for family in families)]
    page = (
        environment()
        .get_template("compared.html")
        .render(
            title=title(comparison),
            verdict=verdicts(comparison),
            families=families,
            remarks=said,
            command=command,
            style=style(),
            data=as_script(record(comparison)),
        )
    )
    return clean(page)


def title(comparison: Comparison) -> str:
    methods = dict.fromkeys(row.cell.method for family in comparison.families for row in family.rows)
    return f"Comparison: {', '.join(methods)}"


# ---- the table ------------------------------------------------------------------------------------------------------


def head(family: Family) -> list[str]:
    return ["IQM over seeds [95 %]", f"minus {family.baseline.letter} [95 %]", "verdict", "P(better) [95 %]", "visible"]


def cells(row: Row, costs: Sequence[str]) -> dict[str, Any]:
    """The numbers of a row, as on the terminal."""
    gap = row.gap
    texts = [
        reached(row.reached),
        NONE if gap is None else against_zero(gap),
        "baseline" if gap is None else gap.verdict,
        chance(row.better),
        compact(row.visible, 2) if math.isfinite(row.visible) else NONE,
    ]
    return {"cell": row.cell, "texts": texts, "costs": [compact(row.cell.costs.get(key)) for key in costs]}


def _costs(family: Family) -> list[str]:
    return [key for key in COSTS if any(key in row.cell.costs for row in family.rows)]


# ---- figures --------------------------------------------------------------------------------------------------------


def _known(family: Family) -> list[str]:
    return [row.cell.name for row in family.rows]


def differences(family: Family) -> Markup | None:
    """Differences from the baseline with their intervals, a row each."""
    told = [row for row in family.others if row.gap is not None and math.isfinite(row.gap.low)]
    if not told:
        return None
    lines = [
        Line(row.cell.name, [row.gap.value], [float(i)], left=[row.gap.low], right=[row.gap.high])
        for i, row in enumerate(told)
        if row.gap is not None
    ]
    axis = f"{family.measure.name} minus that of {family.baseline.letter}"
    names = [row.cell.letter for row in told]
    chart = Chart("Differences", axis, "", lines, kind="points", rows=names, guides={"no difference": 0.0}, reach=[0.0])
    return inline(figure([chart], known=_known(family), whole=WIDTH, alone=False, tips=True))


def _frontier(family: Family, key: str) -> Drawn | None:
    """Mean over seeds of reward against KL; the learned reward beside the gold one."""
    if key == "reward" and family.measure.key not in ("gold", "reward"):
        return None
    lines, rows = [], []
    shown = [row.cell for row in family.rows if row.cell.paths.get(key)]
    for cell in shown:
        for n, curve in enumerate(_curves(cell, key)):
            points = thin(curve, max(8, MARKERS // len(shown)))
            x, y = ([float(point[i]) for point in points] for i in (0, 1))
            lines.append(Line(cell.name, x, y, tag=cell.letter if not n else ""))
            rows += [[cell.letter, number(a, 3), number(b, 4)] for a, b in points]
    if not lines or (key == "gold" and family.measure.key != "gold"):
        return None
    name = "reward that was trained on" if key != family.measure.key else family.measure.name
    chart = chart_of("", lines, y=name)
    svg = inline(figure([chart], known=_known(family), whole=WIDTH, alone=False, tips=True))
    note = "Means over seeds, an evaluation per marker, from before training. Higher at the same KL is better."
    missing = [row.cell.letter for row in family.rows if row.cell not in shown]
    return Drawn(f"{name[:1].upper()}{name[1:]} against KL", note, svg, ["", "KL(π‖π_ref)", name], rows, missing)


def _curves(cell: Cell, key: str) -> Iterator[Sequence[tuple[float, float]]]:
    """The mean path if all seeds were evaluated equally often, otherwise each."""
    paths: list[Curve] = list(cell.paths[key].values())
    if len({len(path) for path in paths}) > 1:
        yield from paths
        return
    yield [(fmean(p[0] for p in at), fmean(p[1] for p in at)) for at in zip(*paths, strict=True)]
