"""Files of preferences, labels and prompts: formats, checks, built-in instructions. Nothing here imports torch."""
