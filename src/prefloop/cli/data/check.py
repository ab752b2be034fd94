"""`prefloop data check FILE`: what a file holds, before anything is trained on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.data.shared import BAD_ROWS, print_faults, read
from prefloop.cli.options import Rows
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.data.check import Lengths, Report
    from prefloop.data.formats import Loaded

WORTH_A_LOOK = 0.6  # share of "the longer wins", or of one label, from which on it is pointed out


@dataclass(frozen=True, kw_only=True)
class Options(Rows):
    """Count, measure and look for mistakes in a file of preferences, labels or prompts.

    Exit code: 0 if all rows can be used, 3 if some cannot.
    """

    file: Annotated[Path, Flag(positional=True)]
    """.jsonl, .json (both also .gz) or .parquet."""


def run(options: Options) -> int:
    """Check the file; 3 when some rows of it cannot be used."""
    from prefloop.data.check import check

    found = read(options, options.file, options.limit)
    report = check(found.groups)
    options.show(
        lambda: _record(options.file, found, report),
        lambda: _print_report(options.file, found, report),
    )
    return BAD_ROWS if found.faults else 0


def _record(file: Path, found: Loaded, report: Report) -> dict[str, Any]:
    faults = [{"row": f.row, "what": f.what} for f in found.faults]
    return {"file": str(file), "format": found.format, "columns": found.columns, **asdict(report), "faults": faults}


def _print_report(file: Path, found: Loaded, report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from prefloop.data.formats import FORMATS

    console = Console(highlight=False)
    console.print(Text(str(file), style="bold"), soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("format", style="cyan"), Text(f"{found.format}: {FORMATS[found.format].help}"))
    for name, value in _facts(report).items():
        table.add_row(Text(name, style="cyan"), Text(value))
    console.print(table)
    for remark in _remarks(report):
        console.print(Text(f"note: {remark}", style="yellow"))
    print_faults(found)


def _facts(report: Report) -> dict[str, str]:
    """What is known, as text; what the file cannot have is left out."""
    sizes = ", ".join(f"{groups:,} with {size}" for size, groups in report.group_sizes.items())
    facts = {
        "rows": f"{report.groups:,}",
        "questions": f"{report.keys:,} (a split goes by these); {report.prompts:,} distinct prompts",
        "responses": f"{report.responses:,} (rows: {sizes})",
        "prompt length": _lengths(report.prompt_length),
    }
    if report.response_length is not None:
        facts["response length"] = _lengths(report.response_length)
    if report.longer_wins is not None:
        facts["preferences"] = f"{report.preferences:,}; the longer response wins {report.longer_wins:.1%}"
    if report.positive_labels is not None:
        facts["labels"] = f"{report.positive_labels:.1%} positive"
    counts = f"{report.duplicates:,} duplicate rows, {report.ties:,} ties, {report.contradictions:,} contradictions"
    return facts | {"repeats": counts}


def _lengths(x: Lengths) -> str:
    return f"{x.min:,} to {x.max:,} characters, median {x.median:,.0f}, 95 % up to {x.p95:,.0f}"


def _remarks(report: Report) -> list[str]:
    """What somebody who is about to train on this should know."""
    remarks = []
    if report.longer_wins is not None and report.longer_wins >= WORTH_A_LOOK:
        remarks.append("longer responses win often: compare any accuracy with that of picking the longer")
    if report.positive_labels in (0.0, 1.0):
        remarks.append("all labels are the same: nothing can be learnt from their difference")
    if report.duplicates or report.contradictions:
        remarks.append("repeated prompts stay on one side of a split, but they weigh more")
    return remarks
