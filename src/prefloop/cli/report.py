"""`prefloop report`: one self-contained page from run folders."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from prefloop.cli.options import Output, require_positive
from prefloop.core.errors import UserError
from prefloop.runs.schema import Flag

if TYPE_CHECKING:
    from prefloop.report.data import Run


@dataclass(frozen=True, kw_only=True)
class Options(Output):
    """Compare runs on one self-contained HTML page."""

    runs: Annotated[tuple[Path, ...], Flag(positional=True, metavar="RUN")]
    """Run folders."""
    out: Annotated[Path | None, Flag(metavar="FILE")] = None
    """File of the page (default: report.html in the run, or next to the runs)."""
    title: str | None = None
    """Title of the page."""
    label: Annotated[tuple[str, ...], Flag(metavar="TEXT")] = ()
    """Names of the runs, one for each, in order."""
    watch: Annotated[float | None, Flag(metavar="SECONDS")] = None
    """Write the page again, which reloads itself, until all runs are finished or Ctrl-C."""
    format: Literal["", "csv", "md", "latex"] = ""
    """Print the last evaluation of each run as a table, for a spreadsheet or a paper, instead of writing the page."""

    def __post_init__(self) -> None:
        require_positive(self, "watch")
        if self.label and len(self.label) != len(self.runs):
            what = f"{len(self.label)} labels for {len(self.runs)} runs"
            raise UserError(what, where="--label", fix="give one label per run, in order")


def run(options: Options) -> int:
    """Write the page and print its path.

    Raises:
        UserError: a folder that is not a run, or labels that do not match the runs.
        DataError: a broken record.
    """
    from prefloop.report.findings import finished, progress

    if options.format:
        from prefloop.report.cells import columns
        from prefloop.report.tables import of_runs

        table = of_runs(columns(options.runs, list(options.label) or None), options.format)
        options.show(lambda: {"table": table}, lambda: print(table))
        return 0
    while True:
        page, runs, verdict = _write(options)
        if options.watch is None or all(map(finished, runs)):
            break
        options.say(f"{datetime.now():%H:%M:%S}  {page}  {'; '.join(f'{run.letter} {progress(run)}' for run in runs)}")
        try:
            time.sleep(options.watch)
        except KeyboardInterrupt:
            break
    options.show(lambda: {"page": str(page), "findings": verdict}, lambda: print(page))
    return 0


def _write(options: Options) -> tuple[Path, list[Run], list[str]]:
    """The page as the runs are now."""
    from prefloop.report.cells import columns
    from prefloop.report.findings import findings, finished
    from prefloop.report.page import write

    labels = list(options.label) or None
    runs = columns(options.runs, labels)
    methods = ", ".join(dict.fromkeys(run.method for run in runs))
    title = options.title or f"Preference fine-tuning: {methods}"
    verdict = findings(runs)
    reload = None if all(map(finished, runs)) else options.watch
    out = options.out or default_place(options.runs)
    write(options.runs, out, title=title, verdict=verdict, labels=labels, reload=reload)
    return out, runs, verdict


def default_place(runs: Sequence[Path]) -> Path:
    """Inside a single run; for several, in the folder that contains them all."""
    if len(runs) == 1:
        return runs[0] / "report.html"
    return Path(os.path.commonpath([run.resolve().parent for run in runs])) / "report.html"
