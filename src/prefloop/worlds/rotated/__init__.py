"""A bandit with headroom: arms on a circle, rotated by the context."""
