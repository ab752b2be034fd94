"""Statistics of finished runs: intervals, comparisons, divergences, over-optimisation, closed forms."""
