"""Shared code of the verbs for data files: reading, and reporting unusable rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prefloop.cli.options import Rows

if TYPE_CHECKING:
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
