"""Files of preferences, labels and prompts: formats, checks, and the built-in instructions. Nothing here imports torch."""
