"""docs/findings.md from the studies under docs/studies: `make findings` runs them and then this."""

from __future__ import annotations

from pathlib import Path

from prefloop.studies import page

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Write the page anew."""
    text = page.findings(page.load(DOCS / "studies"), at="studies/")
    (DOCS / "findings.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
