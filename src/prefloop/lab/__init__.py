"""The bandit lab: many runs of the loop stacked on one axis, resumable sweeps, tables with intervals."""
