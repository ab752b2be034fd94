"""The verbs of reward models: train, card and score."""
