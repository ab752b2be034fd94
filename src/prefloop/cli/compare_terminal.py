"""A comparison on a terminal of 80 columns: the verdict, who is who, differences, costs, remarks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from prefloop.analysis.numbers import NONE, compact
from prefloop.report.compared import COSTS, Comparison, Family
from prefloop.report.compared_words import against_zero, chance, reached, remarks, verdict

WIDTH = 80
TERMS = (
    "IQM: interquartile mean over seeds. P(better): chance that a training (with few seeds: an answer) beats one of the"
    " baseline. visible: a true difference that 4 of 5 such comparisons would have called real.",
)
HEAD = ("", "IQM [95 %]", "minus {base} [95 %]", "P(better) [95 %]", "visible")


def show(comparison: Comparison) -> None:
    """Print everything."""
    for family in comparison.families:
        for line in _family(family):
            print(line)
        print()
    for text in (*TERMS, *remarks(comparison)):
        print("\n".join(_wrapped(text)))


def _family(family: Family) -> Iterator[str]:
    yield from _wrapped(verdict(family))
    yield ""
    for row in family.rows:
        mark = " (baseline)" if row is family.rows[0] else ""
        yield from _wrapped(f"{row.cell.letter}  {row.cell.label}{mark}", 3)
    yield from _wrapped(f"{family.measure.name} at the end:", 0)
    head = [title.format(base=family.baseline.letter) for title in HEAD]
    yield from _grid(head, list(_differences(family)))
    yield ""
    yield "mean cost of a run:"
    shown = [key for key in COSTS if any(key in row.cell.costs for row in family.rows)]
    costs = [[row.cell.letter, *(compact(row.cell.costs.get(key)) for key in shown)] for row in family.rows]
    yield from _grid(["", *(COSTS[key] for key in shown)], costs)


def _differences(family: Family) -> Iterator[list[str]]:
    for row in family.rows:
        gap = NONE if row.gap is None else against_zero(row.gap)
        visible = compact(row.visible, 2) if math.isfinite(row.visible) else NONE
        yield [row.cell.letter, reached(row.reached), gap, chance(row.better), visible]


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Right-aligned columns, the first to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for line in (head, *rows):
        first, *others = zip(line, widths, strict=True)
        yield "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]).rstrip()


def _wrapped(text: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
