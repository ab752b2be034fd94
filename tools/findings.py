"""Figures, pages, docs/findings.md and the package's evidence from the records in docs/studies, without running any.

    python tools/findings.py [--repetition FOLDER]

`make findings` runs the studies, then this. The results of a repetition in FOLDER are put beside the studies first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prefloop.studies import findings, page, record, trust

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Redraw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetition", type=Path, metavar="FOLDER")
    studies, again = DOCS / "studies", parser.parse_args().repetition
    if again is not None:
        trust.keep(record.load(again), studies)
    page.redraw(studies)
    findings.write(studies, DOCS / findings.FINDINGS, at="studies/")
    findings.write_evidence(record.load(studies), trust.read(studies))


if __name__ == "__main__":
    main()
