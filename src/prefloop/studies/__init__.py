"""The study's questions: each file one grid, its scores and plots, and verdict rules stated before the run."""
