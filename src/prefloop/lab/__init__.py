"""The bandit lab: many runs of the loop stacked on one axis, sweeps that can be resumed, tables with intervals."""
