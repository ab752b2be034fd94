"""The figure of `prefloop lab`: gold reward over training, a panel for each value of one field of the problem."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefloop.analysis.numbers import compact
from prefloop.cli.world_flags import flags_of

if TYPE_CHECKING:  # torch is imported only to run something, so that --help is fast
    from prefloop.lab.summary import Cell
    from prefloop.report.chart import Chart, Line

LINES = 8  # maximum number of lines in a panel
STEPS = {"step": "gradient steps"}
COSTS = {"samples": "responses sampled", "reward_queries": "reward queries"}
Drawn = Sequence[tuple["Cell", Mapping[str, Any]]]  # cells with their rows of the table


def charts(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Panels of few lines; the same curves are never drawn twice."""
    from prefloop.report.chart import Chart

    whole: Drawn = list(zip(cells, rows, strict=True))
    ceiling = cells[0].setting.world.ceiling
    known = math.isfinite(ceiling)
    guides, bounds = ({"ceiling": ceiling}, (None, ceiling)) if known else ({}, (None, None))
    said = f"interquartile mean over {len(cells[0].runs)} seeds; band: 95 % bootstrap interval"
    ends = [float(v) for cell in cells for v in cell.curve("eval/gold").flat if math.isfinite(v)]
    reach = (min(ends), max(ends)) if ends else ()
    return [
        Chart(title, words, "gold reward", lines, guides=guides, range=bounds, interval=said, reach=reach)
        for title, some, left_out in _panels(whole)
        for x, words in (STEPS | _costs(cells)).items()
        if (lines := [_line(cell, row, x, left_out) for cell, row in some if cell.runs[0].last(x) > 0])
    ]


def _panels(whole: Drawn) -> Iterator[tuple[str, Drawn, str]]:
    """Title, cells, and the name that the title says already."""
    world = flags_of(type(whole[0][0].setting.world))
    split = next((name for name in whole[0][1]["differs"] if name in world), "")
    values = list(dict.fromkeys(row["differs"][split] for _, row in whole)) if split else []
    if not 1 < len(values) < len(whole):  # one line in each panel would compare nothing
        split, values = "", [None]
    for value in values:
        some = [(cell, row) for cell, row in whole if not split or row["differs"][split] == value]
        title = f"{split} = {short(value)}" if split else "Gold reward"
        for first in range(0, len(some), LINES):
            yield title, some[first : first + LINES], split


def _costs(cells: Sequence[Cell]) -> dict[str, str]:
    """The costs whose curves differ from those over steps, and from each other, other than in scale."""
    out: dict[str, str] = {}
    seen = [[1.0 for cell in cells]]
    for name, words in COSTS.items():
        rates = [cell.runs[0].last(name) / cell.runs[0].last("step") for cell in cells]
        if not any(_proportional(rates, other) for other in seen):
            seen.append(rates)
            out[name] = words if all(rates) else f"{words} (none in offline methods)"
    return out


def _proportional(rates: Sequence[float], other: Sequence[float]) -> bool:
    """Whether cells that have any would look the same."""
    ratios = [a / b for a, b in zip(rates, other, strict=True) if a and b]
    return not ratios or math.isclose(min(ratios), max(ratios), rel_tol=1e-6)


def _line(cell: Cell, row: Mapping[str, Any], x: str, left_out: str) -> Line:
    from prefloop.lab.summary import band
    from prefloop.report.chart import Line

    middle, low, high = band(cell.curve("eval/gold"))
    return Line(label(row, left_out), cell.runs[0].curves[x].tolist(), middle, low, high)


def label(row: Mapping[str, Any], left_out: str = "") -> str:
    """A short name of a cell: the method and what else differs."""
    return " ".join([row["method"], *(f"{k}={short(v)}" for k, v in row["differs"].items() if k != left_out)])


def short(value: Any) -> str:
    """A value of a setting, or a number with three digits."""
    return compact(value) if isinstance(value, float) else str(value)
