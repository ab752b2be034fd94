"""Verbs for studies: list, run and draw."""
