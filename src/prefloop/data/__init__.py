"""Files of preferences, labels and prompts: formats, checks, built-in instructions. Imports no torch."""
