"""`prefloop compare`: methods against a baseline, over seeds and prompts, from run folders or the lab."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prefloop.cli.options import Output, require_page
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.report.compared import Cell, Comparison


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Say which method is better: differences with intervals, what could have been seen, and at what cost."""

    runs: Annotated[tuple[Path, ...], Flag(positional=True, metavar="RUN")]
    """Run folders, or folders of `prefloop lab`; runs that differ only in their seed are one row."""
    baseline: Annotated[str | None, Flag(metavar="RUN")] = None
    """What the others are compared with: one of the runs, a method, or a name of the table (default: the first)."""
    page: Annotated[Path | None, Flag(metavar="FILE")] = None
    """Write an HTML page too."""

    def __post_init__(self) -> None:
        require_page(self.page)


def run(options: Options) -> int:
    """Print the comparison, and write its page.

    Raises:
        UserError: nothing that can be compared, an unknown baseline, or a folder without runs.
        DataError: a broken record.
    """
    from prefloop.report.compared import compare
    from prefloop.report.compared_words import record

    cells, notes = cells_of(options.runs)
    baseline = None if options.baseline is None else _named(options.baseline, cells)
    comparison = compare(cells, baseline, notes)
    page = _page(options, comparison)

    def whole() -> dict[str, Any]:
        return {**record(comparison), "page": page}

    def text() -> None:
        from prefloop.cli.compare_terminal import show

        show(comparison)
        if page:
            print(f"page: {page}")

    options.show(whole, text)
    return 0


def cells_of(folders: Sequence[Path]) -> tuple[list[Cell], list[str]]:
    """The cells of run folders first, then those of each folder of the lab.

    Raises:
        UserError: a folder without runs.
        DataError: a broken record.
    """
    from prefloop.cli.compare_lab import cells_of_lab, is_lab
    from prefloop.report import compared_runs

    labs = [folder for folder in dict.fromkeys(folders) if is_lab(folder)]
    own = [folder for folder in folders if folder not in labs]
    cells, notes = compared_runs.cells_of(own) if own else ([], [])
    for folder in labs:
        some, said = cells_of_lab(folder)
        cells, notes = cells + some, notes + said
    return cells, notes


def _named(baseline: str, cells: Sequence[Cell]) -> str:
    """A run as it was given, whatever way its path is written."""
    here = Path(baseline).resolve()
    return next((run for cell in cells for run in cell.runs if Path(run).resolve() == here), baseline)


def _page(options: Options, comparison: Comparison) -> str | None:
    if options.page is None:
        return None
    from prefloop.report.compared_page import write
    from prefloop.runs.manifest import command

    return str(write(comparison, options.page, command=shlex.join(command())))
