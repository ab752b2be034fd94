"""Predicted time of a grid of runs on a language model: its operations, timed on a few responses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from prefloop.runs.config import Config
from prefloop.runs.grid import comparisons
from prefloop.runs.length import with_steps
from prefloop.runs.speed import given_responses, quick, seconds, start, unanswered
from prefloop.runs.world import method_of, open_world, resolved
from prefloop.worlds.text.open_data import open_data


def forecast(configs: Mapping[str, Config]) -> float:
    """Predicted seconds of a grid of runs if responses keep their length.

    Timed on the first run, so all runs should have the same model and similar prompts; timing adds a few percent.
    """
    configs = {label: resolved(config) for label, config in configs.items()}
    clock, (label, first) = time.monotonic(), next(iter(configs.items()))
    data = open_data(first.data)
    whole = {label: with_steps(config, method_of(config), len(data.train)) for label, config in configs.items()}
    world = open_world(whole[label], data, say=lambda text: None)
    opening = time.monotonic() - clock
    speed = replace(quick(first, world), opening=opening)
    prompts, given = unanswered(world), given_responses(first, world)
    starts = [start(list(cells.values()), speed, prompts, given) for cells in comparisons(whole)]
    return sum(starts) + sum(seconds(config, speed, given) for config in whole.values())
