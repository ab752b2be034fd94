"""The verbs of studies: list and run."""
