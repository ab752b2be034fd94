"""Whether a difference between methods can be seen on a problem at all: asked before any verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from numpy.typing import ArrayLike

from prefloop.analysis.decisions import finite
from prefloop.analysis.numbers import compact
from prefloop.analysis.statistics import mean_se

APART = 5.0  # best and worst method must differ by more standard errors
CEILING = 0.02  # a score this near to the largest measurable one, as a share of it, is at the ceiling


def headroom(
    scores: Mapping[str, ArrayLike],
    *,
    largest: float | None = None,
    cells: Collection[str] | None = None,
    ceiling: Literal["any", "all"] = "any",
    alike: bool = False,
) -> str:
    """Why no difference can be seen on this problem, or nothing.

    Args:
        scores: [n] of each method of the question, paired by seed; larger is better.
        largest: the largest measurable score, if there is one.
        cells: the methods of the claim; by default all.
        ceiling: whether one of the cells at the ceiling is enough, or all must be. A difference with one cell there is
            only too small, a difference of differences may have either sign.
        alike: whether the claim predicts methods that do equally well here; then only the ceiling matters.

    Raises:
        ValueError: fewer than two methods, or not one score per seed for each.
    """
    table = {name: finite(x) for name, x in scores.items()}
    if len(table) < 2 or len({len(x) for x in table.values()}) > 1:
        raise ValueError("headroom needs two or more methods with one score per seed each")
    worst, *_, best = sorted(table, key=lambda name: float(table[name].mean()))
    lead = mean_se(table[best] - table[worst])
    if not alike and not lead.value > APART * lead.se:
        return f"best and worst ({best}, {worst}) differ by {lead}, less than {compact(APART)} standard errors"
    judged = list(table) if cells is None else list(cells)
    top = [] if largest is None else [name for name in judged if table[name].mean() >= largest - CEILING * abs(largest)]
    if top and (ceiling == "any" or len(top) == len(judged)):
        return f"within {100 * CEILING:g} % of the largest measurable score, {compact(largest)}: {', '.join(top)}"
    return ""
