"""What was found, as one self-contained page: the verdict, pictures with their tables, what cannot be told and why, the
command, and the JSON behind it all. For diagnoses of runs and of data, and for advice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.statistics import Mean
from prefloop.core.files import plain
from prefloop.report.chart import Chart, Line, Table
from prefloop.report.data import Run, clean, comparisons
from prefloop.report.figures import WIDTH, Drawn
from prefloop.report.layout import figure
from prefloop.report.page import PROMPTS, as_script, environment, save, style
from prefloop.report.svg import inline

LIMIT = 1_500_000  # bytes
ROW = 18.0  # points
APART = 0.3  # rows between the marks of two labels in one row
Value = Mean | CannotTell


@dataclass(frozen=True)
class Part:
    """A section.

    Args:
        said: sentences above the figures.
        tables: below them.
    """

    title: str
    figures: Sequence[Drawn] = ()
    tables: Sequence[Table] = ()
    said: Sequence[str] = ()


@dataclass(frozen=True)
class Found:
    """What a page shows.

    Args:
        verdict: sentences, numbers first.
        setting: what was measured, in one sentence.
        parts: sections; those without anything are left out.
        unknown: why numbers cannot be told, by their names.
        notes: what a reader must know.
        record: what `--json` prints.
        runs: whose answers before and after are shown, if they have any.
    """

    title: str
    verdict: Sequence[str]
    parts: Sequence[Part]
    record: Mapping[str, Any]
    setting: str = ""
    unknown: Mapping[str, str] | None = None
    notes: Sequence[str] = ()
    runs: Sequence[Run] = ()


def write(found: Found, out: Path, *, command: str = "") -> Path:
    """Write the page; an existing one is replaced.

    Raises:
        UserError: so much that the page would exceed 1.5 MB.
    """
    return save(render(found, command=command), out, limit=LIMIT, fix="diagnose fewer runs on one page")


def render(found: Found, *, command: str = "") -> str:
    """The page as text."""
    template = environment().get_template("found.html")
    page = template.render(
        found=found,
        parts=[part for part in found.parts if part.figures or part.tables or part.said],
        unknown=found.unknown or {},
        samples=comparisons(found.runs, PROMPTS),
        greedy=any(line.get("greedy") for run in found.runs for line in run.samples),
        command=command,
        style=style(),
        data=as_script(plain(found.record)),
    )
    return clean(page)


# ---- figures --------------------------------------------------------------------------------------------------------


def drawn(chart: Chart, known: Sequence[str], note: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Drawn:
    """A chart with the table below it, and a legend if it has several labels.

    Args:
        known: labels whose order determines the colours.
    """
    shown = {line.label for line in chart.lines}
    svg = inline(figure([chart], known=known, whole=WIDTH, alone=False, tips=True, row=ROW))
    legend = {label: place for place, label in enumerate(known) if label in shown}
    return Drawn(chart.title, note, svg, list(head), list(map(list, rows)), legend=legend if len(legend) > 1 else {})


def side_by_side(
    names: Sequence[str], values: Mapping[str, Sequence[Value | None]], *, scale: float = 1.0, level: bool = False
) -> tuple[list[Line], list[str]]:
    """A line for each label, with a mark ± standard error in each named row for which it has a number; and the rows.

    Args:
        values: by label, one for each name.
        scale: what numbers are multiplied by.
        level: whether each row has one label only, so that no mark is moved.
    """
    kept = [i for i in range(len(names)) if any(isinstance(own[i], Mean) for own in values.values())]
    shown = [label for label, own in values.items() if any(isinstance(own[i], Mean) for i in kept)]
    lines = []
    for place, label in enumerate(shown):
        known = [(y, x) for y, i in enumerate(kept) if isinstance(x := values[label][i], Mean)]
        at = [scale * x.value for _, x in known]
        errors = [scale * (0.0 if math.isnan(x.se) else x.se) for _, x in known]
        up = [y + (0.0 if level else APART * (place - (len(shown) - 1) / 2)) for y, _ in known]
        left, right = ([x + side * e for x, e in zip(at, errors, strict=True)] for side in (-1, 1))
        lines.append(Line(label, at, up, left=left, right=right))
    return lines, [names[i] for i in kept]
