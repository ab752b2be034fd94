"""The table of docs/how-to/compare.md: how often intervals hold the truth, in percent. `python tools/intervals.py`"""

from __future__ import annotations

from prefloop.analysis.covered import SPREADS, coverage

REPEATS = 250


def main() -> None:
    """Print it as Markdown."""
    for seeds in (3, 5):
        for name, spread in SPREADS.items():
            found = coverage(spread, seeds=seeds, repeats=REPEATS)
            print(f"| {seeds} | {name} | {' | '.join(f'{100 * share:.0f}' for share in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
