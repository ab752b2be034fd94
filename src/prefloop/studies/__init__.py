"""The paper's questions: each file has one grid, its scores and plots, and verdict rules stated before the run."""
