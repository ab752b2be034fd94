"""`prefloop data stats FILE`: what the columns of a file hold, before any of them is interpreted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prefloop.cli.data.shared import facts
from prefloop.cli.options import Output, require_positive
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.check import Report
    from prefloop.data.columns import Column


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Show for every column its kinds of values, lengths, ranges and, if there are few, the values themselves.

    `data check` shows what a file means to a training; this shows what stands in it, and what the format that fits
    finds: lengths, how often the longer answer is preferred, duplicates, ties.
    """

    file: Annotated[Path, Flag(positional=True)]
    """A data file, see docs/formats.md."""
    limit: int | None = None
    """Read at most this many rows."""

    def __post_init__(self) -> None:
        require_positive(self, "limit")


def run(options: Options) -> int:
    """Show the columns.

    Raises:
        DataError: a file that cannot be read.
    """
    from prefloop.data.columns import columns
    from prefloop.data.fault import Fault
    from prefloop.data.reading import open_rows

    rows = [row for _, row in islice(open_rows(options.file), options.limit)]
    sound = [row for row in rows if not isinstance(row, Fault)]
    found = columns(sound)
    damaged = len(rows) - len(sound)
    format, report = _report(options)
    means = {"format": format, "report": report and asdict(report)}
    options.show(
        lambda: {"rows": len(sound), "damaged": damaged, "columns": [asdict(column) for column in found], **means},
        lambda: _print(found, len(sound), damaged, format, report),
    )
    return 0


def _report(options: Options) -> tuple[str | None, Report | None]:
    """The format that the columns fit, and what it finds; None if no format fits."""
    from prefloop.core.errors import DataError
    from prefloop.data.check import check
    from prefloop.data.formats import load_usable

    try:
        loaded = load_usable(options.file, limit=options.limit)
    except DataError:
        return None, None
    return loaded.format, check(loaded.groups)


def _print(found: list[Column], rows: int, damaged: int, format: str | None, report: Report | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("column", "rows", "kinds", "length", "number", "values", box=None, header_style="bold")
    for column in found:
        kinds = ", ".join(name if n == column.rows else f"{name} {n:,}" for name, n in column.kinds.items())
        values = ", ".join(f"{value} ({n:,})" for value, n in (column.values or {}).items())
        table.add_row(column.name, f"{column.rows:,}", kinds, _shown(column.sizes), _shown(column.numbers), values)
    console = Console(highlight=False)
    console.print(f"{rows:,} rows" + (f", {damaged:,} that cannot be read" if damaged else ""))
    console.print(table)
    console.print("length: smallest, median, 95 % up to, largest; number: smallest, median, largest")
    read = "no format fits these columns: `prefloop data check` says why" if format is None else f"as `{format}`:"
    console.print(read)
    for name, value in (facts(report) if report else {}).items():
        console.print(f"  {name}: {value}")


def _shown(x: tuple[float, ...] | None) -> str:
    return "" if x is None else " · ".join(f"{v:,.6g}" for v in x)
