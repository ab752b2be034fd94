"""The page of a recipe: its stages, the learning rates that were tried, and the methods beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.analysis.numbers import NONE, compact, duration, interval
from prefloop.analysis.statistics import Mean
from prefloop.recipes.recipe import Recipe
from prefloop.report.chart import Chart, Table
from prefloop.report.figures import Drawn
from prefloop.report.found_page import Found, Part, drawn, side_by_side, write

Record = Mapping[str, Any]
HEAD = ("cell", "seeds", "reward after", "change of the reward", "KL(π‖π_ref)", "published change")


def page(recipe: Recipe, records: Sequence[Record], notes: Sequence[str], out: Path, command: str) -> Path:
    """Write the page of a recipe that has run."""
    found = Found(
        title=recipe.title,
        verdict=verdict(records),
        parts=[_stages(records), *_tuning(records), *(_methods(one) for one in records if one["kind"] == "eval")],
        record={"recipe": str(recipe.path), "stages": list(records)},
        setting=f"Recipe {recipe.path.name}; intervals are 95 % over seeds (Student's t).",
        notes=notes,
    )
    return write(found, out, command=command)


def verdict(records: Sequence[Record]) -> list[str]:
    """One sentence for each stage that has a result."""
    said = [f"Reward model `{one['stage']}`: {one['held_out']}." for one in records if one.get("held_out")]
    for one in records:
        for row in one.get("rows", []):
            said.append(
                f"{row['cell']}: {one['metric']} {_between(row['change'], sign=True)}, KL {_between(row['kl'])}."
            )
    return said or ["All stages are finished."]


def table(record: Record) -> list[list[str]]:
    """The rows of a stage of evaluation, below HEAD."""
    return [
        [
            row["cell"],
            str(row["seeds"]),
            _between(row["reward"]),
            _between(row["change"], sign=True),
            _between(row["kl"]),
            row["published"] or NONE,
        ]
        for row in record["rows"]
    ]


def _between(value: Record | None, *, sign: bool = False) -> str:
    if value is None:
        return NONE
    low, high = (float("nan") if value[end] is None else value[end] for end in ("low", "high"))
    return interval(value["value"], low, high, sign=sign)


def _stages(records: Sequence[Record]) -> Part:
    rows = [[one["stage"], one["kind"], duration(one["seconds"]), one["folder"]] for one in records]
    return Part("Stages", tables=[Table("", ("stage", "kind", "time", "folder"), rows)])


def _tuning(records: Sequence[Record]) -> list[Part]:
    tables = []
    for one in records:
        if one.get("tuned"):
            rates = [rate for rate, _ in next(iter(one["tuned"].values()))]
            rows = [
                [
                    cell,
                    *("diverged" if value is None else compact(value) for _, value in tried),
                    compact(one["rates"][cell]),
                ]
                for cell, tried in one["tuned"].items()
            ]
            tables.append(Table(f"Stage {one['stage']}", ("cell", *map(compact, rates), "chosen"), rows))
    said = ["The end of trials with seeds of their own, by learning rate; the best one is used."]
    return [Part("Learning rates", tables=tables, said=said)] if tables else []


def _methods(record: Record) -> Part:
    figures = [_figure(record, "change", "Change of the reward", record["metric"], guide=True)]
    if all(row["kl"] for row in record["rows"]):
        figures.append(_figure(record, "kl", "Distance from the reference", "KL(π‖π_ref), nats", guide=False))
    said = [record["source"]] if record["source"] else []
    return Part(f"Methods: stage {record['stage']}", figures, [Table("", HEAD, table(record))], said)


def _figure(record: Record, key: str, title: str, axis: str, *, guide: bool) -> Drawn:
    """One mark ± half of its interval for each cell."""
    rows = record["rows"]
    known = [row["cell"] for row in rows]
    means = {name: [_mean(row[key]) if row["cell"] == name else None for row in rows] for name in known}
    lines, names = side_by_side(known, means, level=True)
    chart = Chart(
        title, axis, "", lines, kind="points", rows=names, guides={"before": 0.0} if guide else {}, reach=[0.0]
    )
    note = "Mean over seeds; bars are half of the 95 % interval to each side, and missing for a single seed."
    return drawn(chart, known, note, ["cell", title], [[row["cell"], _between(row[key])] for row in rows])


def _mean(value: Record) -> Mean:
    half = float("nan") if value["low"] is None else (value["high"] - value["low"]) / 2
    return Mean(value["value"], half, value["n"])
