"""What a study shows of its evidence: the score of every run, curves, reward against KL, and a table of its cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from prefloop.analysis.breaks import breaks
from prefloop.analysis.numbers import NONE, compact, fixed
from prefloop.analysis.statistics import mean_se
from prefloop.lab.scores import GOLD, KL, broke
from prefloop.lab.summary import Cell, band
from prefloop.report.chart import ANY, Chart, Line, Table, frontier
from prefloop.studies.conduct import Condition, Evidence, Key, label
from prefloop.studies.problems import PLACES, TITLES, UNIT, attained, objective, quickness
from prefloop.studies.study import Outcome

GOLDEN = 0.618
HEAD = (
    "condition",
    "lr",
    "knob",
    "seeds",
    "score",
    "median unbroken",
    "broke",
    "log2 steps to half",
    "KL at the end",
    "tuning",
)


def outcome(evidence: Evidence, conditions: Mapping[Any, Condition], caveats: Sequence[str] = ()) -> Outcome:
    """Findings with figures and tables: of each group of conditions that compete, scores, curves, reward against KL."""
    figures = {}
    for group in dict.fromkeys(one.group for one in conditions.values()):
        cells = {key: evidence.cells[key] for key, one in conditions.items() if one.group == group}
        name, names, own = _file(group), short(list(cells)), list(cells.values())
        figures[f"{name}-scores"] = [titled(scores(names, own), group)]
        figures[name] = [titled(course(names, own), group), titled(distance(names, own), group)]
    edges = [f"{label(key)}: {one.why}." for key, one in evidence.tuned.items() if not one.interior]
    return Outcome(evidence.findings, figures, [table(evidence)], [*caveats, *edges])


def _file(group: Key) -> str:
    """The name of a group's figures."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", label(group)).strip("-.") or "runs"


def titled(chart: Chart, group: Key) -> Chart:
    """With the problem in its title."""
    place = group[1] if isinstance(group, tuple) else ""
    where = f"peak {place}" if place in PLACES else TITLES.get(place, label(group))
    return replace(chart, title=f"{chart.title}, {where}" if where else chart.title)


def short(keys: Sequence[Key]) -> list[str]:
    """Names of keys without the parts that all of them share."""
    parts = [key if isinstance(key, tuple) else (key,) for key in keys]
    shared = [len(set(column)) == 1 for column in zip(*parts, strict=True)]
    names = [", ".join(str(x) for x, same in zip(part, shared, strict=True) if not same) for part in parts]
    return [name or label(key) for name, key in zip(names, keys, strict=True)]


def scores(names: Sequence[str], cells: Sequence[Cell]) -> Chart:
    """Every run as a point, so that outcomes of two kinds are seen as two."""
    lines = []
    for row, (name, cell) in enumerate(zip(names, cells, strict=True)):
        own = np.sort(cell.values(attained))
        apart = 0.6 * (np.arange(len(own)) * GOLDEN % 1 - 0.5)  # neighbours far from each other
        lines.append(Line(name, own.tolist(), row + apart))
    guides = {"reference": 0.0, "optimum": 1.0}
    said = f"one point per seed, {seeds(cells)} seeds"
    return Chart("Every run", UNIT, "", lines, kind="points", guides=guides, interval=said, rows=names)


def course(names: Sequence[str], cells: Sequence[Cell]) -> Chart:
    """J against gradient steps on a log axis, the first evaluation left out: median over seeds and its interval."""
    lines = []
    for name, cell in zip(names, cells, strict=True):
        curves = np.stack([objective(cell.setting.world).curve(run) for run in cell.runs])[:, 1:]
        lines.append(Line(name, cell.runs[0].curves["step"][1:].tolist(), *band(curves, medians)))
    return Chart(
        "Learning",
        "gradient steps",
        UNIT,
        lines,
        log_x=True,
        guides={"optimum": 1.0},
        range=ANY,
        interval=f"median over {seeds(cells)} seeds; band: 95 % bootstrap interval",
    )


def distance(names: Sequence[str], cells: Sequence[Cell]) -> Chart:
    """Gold reward against KL(π‖π_ref): medians over seeds at each evaluation."""
    lines = []
    for name, cell in zip(names, cells, strict=True):
        gold, kl = (np.median(cell.curve(column), axis=0) for column in (GOLD, KL))
        lines.append(Line(name, kl.tolist(), gold))
    return frontier("Gold reward against KL", lines, y="gold reward", interval="against KL: medians at each evaluation")


def curves(title: str, cells: Sequence[Cell], names: Sequence[str], *, y: str = GOLD) -> Chart:
    """A metric against gradient steps: interquartile mean over seeds with its band."""
    lines = [
        Line(name, cell.runs[0].curves["step"].tolist(), *band(cell.curve(y)))
        for name, cell in zip(names, cells, strict=True)
    ]
    interval = f"interquartile mean over {seeds(cells)} seeds; band: 95 % bootstrap interval"
    return Chart(title, "gradient steps", "gold reward" if y == GOLD else y, lines, interval=interval)


def medians(curves: Any) -> Any:
    return np.median(curves, axis=-2)


def seeds(cells: Sequence[Cell]) -> str:
    counts = sorted({len(cell.runs) for cell in cells})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def table(evidence: Evidence) -> Table:
    """One row per cell: what was chosen, and its outcomes over the seeds of the comparison."""
    rows = []
    for key, cell in evidence.cells.items():
        one, score = evidence.tuned.get(key), cell.values(attained)
        seen = breaks(score, [broke(run) for run in cell.runs])
        knob = NONE if one is None or one.point.knob is None else f"{one.point.knob:g}"
        rows.append(
            [
                label(key),
                compact(cell.setting.lr) + ("" if one is None or one.interior else " (edge)"),
                knob,
                len(cell.runs),
                str(mean_se(score)),
                fixed(seen.median.value),
                f"{seen.share.value:.2f} [{seen.share.low:.2f}, {seen.share.high:.2f}]",
                fixed(-float(cell.values(quickness).mean()), 1),
                compact(float(cell.last(KL).mean())),
                "" if one is None else f"{one.runs} runs",
            ]
        )
    return Table("Conditions", HEAD, rows)
