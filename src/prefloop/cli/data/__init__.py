"""The verbs of data files: check and show."""
