"""`prefloop study draw`: figures and pages from results that exist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from prefloop.cli.options import Output
from prefloop.core.errors import UserError
from prefloop.runs.schema import Flag


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Draw figures and pages anew from each result.json, without a run."""

    folder: Annotated[Path, Flag(positional=True, metavar="DIR")]
    """The --out of earlier runs."""
    pdf: bool = False
    """PDF beside SVG, for a paper: pip install 'prefloop[figures]'."""


def run(options: Options) -> int:
    """Draw, and say which files were written.

    Raises:
        UserError: no such folder, or no results in it.
    """
    from prefloop.studies import page

    if not options.folder.is_dir():
        raise UserError("no such folder", where=str(options.folder), fix="name the --out of prefloop study run")
    written = [str(path) for path in page.redraw(options.folder, pdf=options.pdf)]
    options.show(lambda: {"files": written}, lambda: print("\n".join(written)))
    return 0
