"""Whether a run is finished, from its records on disk. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from prefloop.runs.best import best_of, is_over
from prefloop.runs.config import Config
from prefloop.runs.folder import FINAL, read


def is_finished(folder: Path, config: Config) -> bool:
    """Whether a run is finished: its last step is evaluated, and its final model is there if one is to be saved."""
    saved = not config.saves_final or (folder / FINAL).exists()
    return saved and has_ended(folder, config)


def has_ended(folder: Path, config: Config) -> bool:
    """Whether the last step of a run is evaluated, or its patience has ended."""
    best = best_of(read(folder, "metrics"), config.evaluation.keep_best)
    return config.training.steps in evaluated_steps(folder) or is_over(best, config)


def evaluated_steps(folder: Path) -> list[int]:
    """Steps at which a run was evaluated, in order."""
    return [line["step"] for line in read(folder, "metrics") if line["kind"] == "evaluation"]
