"""Verbs for reward models: train, card and score."""
