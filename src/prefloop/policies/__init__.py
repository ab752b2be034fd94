"""Distributions over responses: `categorical` (tabular, exact) and `causal_lm` (Hugging Face)."""
