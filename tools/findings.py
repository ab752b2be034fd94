"""Figures, pages and docs/findings.md from the records in docs/studies: `make findings` runs the studies, then this."""

from __future__ import annotations

from pathlib import Path

from prefloop.studies import page

DOCS = Path(__file__).parents[1] / "docs"
EXCEPT = (
    ", but for `gap-narrows-near`, `gap-narrows-in-mode` and `less-apart-in-mode`, which were reworded afterwards, and"
    " `negligible-in-mode` and those on the fall of gold in `overoptimisation`, whose measure was corrected"
)


def main() -> None:
    """Redraw everything, without running a study."""
    page.redraw(DOCS / "studies")
    text = page.findings(page.load(DOCS / "studies"), at="studies/", except_for=EXCEPT)
    (DOCS / "findings.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
