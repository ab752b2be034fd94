"""The loop with its switches, importable alone: knows no files, no Hugging Face, no problem."""
