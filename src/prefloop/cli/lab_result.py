"""The results of `prefloop lab`: records, files, and the table on the screen or for another program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.analysis.numbers import compact, fixed, interval, number
from prefloop.cli.lab_figures import charts, label, short
from prefloop.cli.world_flags import typed
from prefloop.core import files
from prefloop.core.metric_table import METRICS

if TYPE_CHECKING:  # torch is imported only to run something, so that --help is fast
    from rich.console import Console
    from rich.table import Table

    from prefloop.lab.summary import Cell
    from prefloop.lab.tuning import Tuned


def records(cells: Sequence[Cell], searched: Sequence[Tuned] = ()) -> list[dict[str, Any]]:
    """One record per cell: its differences from the others (`differs`), learning rate, and numbers with intervals.

    Args:
        searched: how the learning rate of each was found; empty if it was not searched.
    """
    from prefloop.lab.summary import differences, interval

    out, settings = [], [c.setting for c in cells]
    same = all(one.minibatch == one.batch for one in settings)
    ignore = ("method", "seed", "lr", "steps", "evaluate", "spacing", *(["minibatch"] if same else []))
    differing = differences(settings, ignore=ignore)
    for cell, differs in zip(cells, differing, strict=True):
        one, end = cell.setting, interval(cell.last())
        known = cell.runs[0].curves
        numbers = {k: _number(cell, k) if k in known else math.nan for k in (*COLUMNS, *UNSHOWN)}
        out.append(
            {"method": one.method, "differs": differs, "lr": one.lr, "lr_at_edge": cell.at_edge, "steps": one.steps}
            | {"reward": end.value, "low": end.low, "high": end.high, "over_training": float(cell.mean().mean())}
            | numbers
            | {"seeds": len(cell.runs), "diverged": int(cell.last("diverged").sum())}
        )
    for row, found in zip(out, searched, strict=False):
        row["tuning"] = _tuning(found)
    return out


def _tuning(found: Tuned) -> dict[str, Any]:
    """How a learning rate was found: what was tried, how often it broke, and what that cost."""
    tried = [
        {"lr": point.rate, "score": found.scores[point], "broke": found.breaks[point], "seeds": len(marks)}
        for point, marks in sorted(found.tried.items())
    ]
    return {"why": found.why, "interior": found.interior, "runs": found.runs, "steps": found.steps, "tried": tried}


def _number(cell: Cell, key: str) -> float:
    """Mean over seeds at the end of training; of what the last step alone does not tell, over the whole training."""
    if key != CLIPPED:
        return float(cell.last(key).mean())
    seen = [float(x) for x in cell.curve(key).flat if math.isfinite(x)]
    return sum(seen) / len(seen) if seen else math.nan


CLIPPED = "clip_ratio/region_mean"
COLUMNS = (  # columns of the table
    "eval/length",
    "eval/cut",
    "eval/reward",
    "eval/kl_reverse_exact",
    "samples",
    "passes",
    "push/down",
    CLIPPED,
    "responses/effective",
    "ess",
    "eval/kl_forward_exact",
)
UNSHOWN = ("eval/gold", "eval/entropy", "kl/collection", "push/up")  # in `summary.json` only


def readable(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records with the problem's fields as they are typed, for people: `reward` is `far`, not `centre` 70."""
    return [
        {**row, "differs": typed(type(cell.setting.world), row["differs"])}
        for cell, row in zip(cells, rows, strict=True)
    ]


def write(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]], out: Path, *, pdf: bool = False) -> list[str]:
    """`results.parquet` with every evaluation of every run, `summary.json`, and the figure; names of the files."""
    from prefloop.lab.store import flat
    from prefloop.report import svg

    files.write(out / "results.parquet", flat([run for cell in cells for run in cell.runs]))
    files.write(out / "summary.json", files.to_json(rows, indent=2) + "\n")
    drawn = svg.draw({"reward": charts(cells, readable(cells, rows))}, out, pdf=pdf)
    return ["results.parquet", "summary.json", *(path.name for path in drawn)]


def table(rows: Sequence[Mapping[str, Any]], format: str) -> str:
    """The table for another program; as CSV with all numbers and their digits.

    Args:
        format: see `report.tables.FORMATS`.
    """
    from prefloop.report.tables import written

    names, edge = list(rows[0]["differs"]), any(row["lr_at_edge"] for row in rows)
    if format == "csv":
        keys = [k for k in rows[0] if k not in ("method", "differs", "tuning")]
        lines = [[row["method"], *row["differs"].values(), *(_finite(row[k]) for k in keys)] for row in rows]
        return written(["method", *names, *keys], lines, format)
    numbers = _columns(rows)
    lines = [
        [row["method"], *(short(row["differs"][name]) for name in names), *(column[i] for column in numbers.values())]
        for i, row in enumerate(rows)
    ]
    text = written(["method", *names, *(title.replace("\n", " ") for title in numbers)], lines, format)
    note = {"md": f"\n\n\\{EDGE}", "latex": f"\n% {EDGE}"}[format]
    return text + (note if edge else "")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


EDGE = "* the lowest or highest learning rate: try a wider range"


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print as many columns as fit without cutting numbers; on a narrow screen, a cell's names share a column."""
    from rich.console import Console

    from prefloop.cli.methods import PIPE

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(width=PIPE, highlight=False)
    numbers = _columns(rows)
    names = {"method": [row["method"] for row in rows]}
    names |= {name: [short(row["differs"][name]) for row in rows] for name in rows[0]["differs"]}
    whole = list(numbers)
    while len(numbers) > ALWAYS and _width(console, _laid_out(names, numbers)) > console.width:
        numbers.popitem()
    if _width(console, _laid_out(names, numbers)) > console.width:
        names = {"cell": [label(row) for row in rows]}
    console.print(_laid_out(names, numbers))
    if any(row["lr_at_edge"] for row in rows):
        console.print(EDGE, style="dim")
    if "tuning" in rows[0]:
        print_tuning(rows)
    if hidden := [title.replace("\n", " ") for title in whole[len(numbers) :]]:
        console.print(f"not shown: {', '.join(hidden)} (use a wider screen, or --format csv)", style="dim")


def print_tuning(rows: Sequence[Mapping[str, Any]]) -> None:
    """What the search for learning rates cost, and what is to be known of cells where it broke or ended at an edge."""
    seen = [sorted(row["tuning"][name] for row in rows) for name in ("runs", "steps")]
    runs, steps = (number(n[0]) if n[0] == n[-1] else f"{number(n[0])} to {number(n[-1])}" for n in seen)
    print(f"tuning of a cell, on seeds of its own: {runs} runs, {steps} gradient steps")
    for row in rows:
        if not row["tuning"]["interior"] or any(tried["broke"] for tried in row["tuning"]["tried"]):
            print(f"  {label(row)}: {row['tuning']['why']}")


ALWAYS = 3  # minimum number of number columns


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The table's numbers by heading, the most important first."""
    lost = [f" ({row['diverged']} diverged)" if row["diverged"] else "" for row in rows]
    out = {
        "lr": [compact(row["lr"]) + ("*" if row["lr_at_edge"] else "") for row in rows],
        "reward, IQM [95 %]": [interval(row["reward"], row["low"], row["high"]) for row in rows],
        "seeds": [f"{row['seeds']}{more}" for row, more in zip(rows, lost, strict=True)],
        "over\ntraining": [fixed(row["over_training"]) for row in rows],
        "steps": [number(row["steps"]) for row in rows],
    }
    learned = any(row["eval/reward"] != row["eval/gold"] for row in rows)
    shown = [k for k in COLUMNS if any(math.isfinite(row[k]) for row in rows) and (learned or k != "eval/reward")]
    titles = {k: METRICS[k].title.replace(" ", "\n") + (",\nmean" if k == CLIPPED else "") for k in shown}
    return out | {titles[k]: [short(row[k]) for row in rows] for k in shown}


def _laid_out(names: Mapping[str, Sequence[str]], numbers: Mapping[str, Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for title in numbers:
        table.add_column(Text(title), justify="right", no_wrap=True)
    for row in zip(*names.values(), *numbers.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum
