"""Verbs for data files: check and show."""
