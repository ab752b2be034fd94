"""`prefloop report`: one self-contained page from run folders."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from prefloop.report.data import load
from prefloop.report.page import findings, write


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and say where it is.

    Raises:
        UserError: a folder that is no run, or names that do not match the runs.
        DataError: a broken record.
    """
    args = _parser().parse_args(argv)
    labels = args.label or None
    if labels and len(labels) != len(args.runs):
        _parser().error(f"{len(labels)} labels for {len(args.runs)} runs")
    runs = load(args.runs, labels)
    out = args.out or default_place(args.runs)
    methods = ", ".join(dict.fromkeys(run.method for run in runs))
    title = args.title or f"Preference fine-tuning: {methods}"
    print(write(args.runs, out, title=title, verdict=findings(runs), labels=labels))
    return 0


def default_place(runs: Sequence[Path]) -> Path:
    """Inside a single run; beside several, in the folder that holds them all."""
    if len(runs) == 1:
        return runs[0] / "report.html"
    return Path(os.path.commonpath([run.resolve().parent for run in runs])) / "report.html"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefloop report", description="One self-contained HTML page that compares runs."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the run, or beside the runs")
    parser.add_argument("--title", help="headline of the page")
    parser.add_argument("--label", action="append", metavar="TEXT", help="name of a run, once for each, in their order")
    return parser
