"""`prefloop study draw`: figures and pages from existing results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from prefloop.cli.options import Output
from prefloop.core.errors import UserError
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Redraw figures, pages and tables from each result.json, without running anything."""

    folder: Annotated[Path, Flag(positional=True, metavar="DIR")]
    """The --out folder of earlier runs."""
    pdf: bool = False
    """Also write PDF, for a paper: pip install 'prefloop[figures]'."""
    tables: Literal["", "csv", "md", "latex"] = ""
    """Also write the tables, and the claims with their numbers, in this format."""


def run(options: Options) -> int:
    """Draw, and print the files written.

    Raises:
        UserError: no such folder, or no results in it.
    """
    from prefloop.studies import page

    if not options.folder.is_dir():
        raise UserError("no such folder", where=str(options.folder), fix="give the --out folder of prefloop study run")
    written = [str(path) for path in page.redraw(options.folder, pdf=options.pdf, tables=options.tables)]
    options.show(lambda: {"files": written}, lambda: print("\n".join(written)))
    return 0
