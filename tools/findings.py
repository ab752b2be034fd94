"""Figures, pages, docs/findings.md and the package's evidence from the records in docs/studies, without running any:
`make findings` runs the studies, then this."""

from __future__ import annotations

from pathlib import Path

from prefloop.studies import findings, page, record

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Redraw everything."""
    page.redraw(DOCS / "studies")
    findings.write(DOCS / "studies", DOCS / findings.FINDINGS, at="studies/")
    findings.write_evidence(record.load(DOCS / "studies"))


if __name__ == "__main__":
    main()
