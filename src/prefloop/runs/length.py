"""How long a run is: epochs, shares and defaults become numbers of steps, which the run folder records."""

from __future__ import annotations

import math
from dataclasses import replace

from prefloop.core.method import Method
from prefloop.runs.config import Config

POINTS = 4  # evaluations after the first, by default


def with_steps(config: Config, method: Method, prompts: int) -> Config:
    """The configuration with epochs, a share of warm-up and the default of evaluations as numbers of steps.

    Args:
        prompts: number of training prompts.
    """
    training, every = config.training, config.evaluation.every
    steps = training.steps if training.epochs is None else steps_of(training.epochs, config, method, prompts)
    warmup = round(training.warmup * steps) if training.warmup < 1 else training.warmup
    return replace(
        config,
        training=replace(training, steps=steps, epochs=None, warmup=float(warmup)),
        evaluation=replace(config.evaluation, every=max(1, math.ceil(steps / POINTS)) if every is None else every),
    )


def steps_of(epochs: float, config: Config, method: Method, prompts: int) -> int:
    """Steps in which every training prompt is collected `epochs` times, and every collection is used `reuse` times."""
    return math.ceil(epochs * prompts * method.reuse * method.responses / config.training.minibatch)


def notes_on_length(config: Config, method: Method, prompts: int) -> tuple[str, ...]:
    """What a reader must know about the length of a run.

    Args:
        config: as given, before `with_steps`.
    """
    given, training = config.training, with_steps(config, method, prompts).training
    notes = []
    if given.epochs is not None:
        reused = f", each collection used {method.reuse} times" if method.reuse > 1 else ""
        per_step = training.minibatch // method.responses
        notes.append(
            f"{given.epochs:g} epochs of {prompts} training prompts = {training.steps} steps of {per_step}{reused}"
        )
    if 0 < training.steps < training.warmup:
        notes.append(
            f"the warm-up of {training.warmup:g} steps is longer than the run:"
            f" the learning rate reaches only {training.steps / training.warmup:.0%} of training.lr"
        )
    return tuple(notes)
