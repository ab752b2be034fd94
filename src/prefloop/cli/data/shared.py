"""Shared code of the verbs for data files: reading, and reporting unusable rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefloop.cli.options import Rows

if TYPE_CHECKING:
    from prefloop.data.check import Lengths, Report
    from prefloop.data.formats import Loaded

FAULTS_SHOWN = 20
BAD_ROWS = 3  # exit code for unusable data


def read(options: Rows, file: Path, limit: int | None) -> Loaded:
    """Read the file's rows.

    Raises:
        UserError: a wrong format or column map.
        DataError: a file that cannot be read.
    """
    from prefloop.data.formats import load_usable

    return load_usable(file, format=options.format, group_by=options.group_by, columns=options.columns, limit=limit)


def print_faults(loaded: Loaded) -> None:
    """Print the first rows that cannot be used, and why."""
    from rich.console import Console
    from rich.text import Text

    from prefloop.data.fault import counted

    console = Console(highlight=False)
    if loaded.faults:
        console.print(Text(f"{counted(loaded.faults, len(loaded.groups))} cannot be used:", style="red"))
    for fault in loaded.faults[:FAULTS_SHOWN]:
        console.print(Text(f"  {fault}" + (f" ({fault.fix})" if fault.fix else "")))
    if len(loaded.faults) > FAULTS_SHOWN:
        console.print(f"  … and {len(loaded.faults) - FAULTS_SHOWN} more; `prefloop data check --json` lists all")


def facts(report: Report) -> dict[str, str]:
    """The facts as text, without those that do not apply to the file."""
    sizes = ", ".join(f"{groups:,} with {size}" for size, groups in report.group_sizes.items())
    found = {
        "rows": f"{report.groups:,}",
        "questions": f"{report.keys:,} (a split keeps each on one side); {report.prompts:,} distinct prompts",
        "responses": f"{report.responses:,} (rows: {sizes})",
        "prompt length": _lengths(report.prompt_length),
    }
    if report.response_length is not None:
        found["response length"] = _lengths(report.response_length)
    if report.longer_wins is not None:
        found["preferences"] = f"{report.preferences:,}; the longer response is preferred in {report.longer_wins:.1%}"
    if report.positive_labels is not None:
        found["labels"] = f"{report.positive_labels:.1%} positive"
    counts = f"{report.duplicates:,} duplicate rows, {report.ties:,} ties, {report.contradictions:,} contradictions"
    return found | {"repeats": counts}


def _lengths(x: Lengths) -> str:
    return f"{x.min:,} to {x.max:,} characters, median {x.median:,.0f}, 95 % up to {x.p95:,.0f}"
