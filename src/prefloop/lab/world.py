"""From the settings of one stack to the loop that runs them all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prefloop.core.loop import Loop, Plan
from prefloop.core.method import Method
from prefloop.core.optim import StackedAdam
from prefloop.core.streams import Stream
from prefloop.lab.setting import Setting
from prefloop.worlds.arms import build as bandits
from prefloop.worlds.arms.problem import TOKENS
from prefloop.worlds.lengths import build as lengths

DTYPES = {"float32": torch.float32, "float64": torch.float64}
Look = Callable[[Any, Any, Stream], dict[str, Tensor]]


@dataclass(frozen=True)
class World:
    """A stack ready to run.

    Args:
        loop: over all runs of the stack.
        look: what a policy does on the fixed evaluation set, against the reference, [S] each.
        runs: S.
        tokens: of the longest response.
        offline: responses in the offline data, 0 where the row uses none.
    """

    loop: Loop
    look: Look
    runs: int
    tokens: int
    offline: int


def build(settings: Sequence[Setting]) -> World:
    """The world of settings that share a stack key."""
    one, seeds = settings[0], [s.seed for s in settings]
    dtype = DTYPES[one.precision]
    row, plan = stacked_row(settings, dtype), stacked_plan(settings, dtype)
    house = lengths if one.problem == "lengths" else bandits
    parts, look = house.parts(settings, row, dtype)
    optimizer = StackedAdam(parts.policy.parameters(), lr=plan.lr)
    loop = Loop(
        parts.row, parts.policy, parts.problem, plan, reference=parts.reference, optimizer=optimizer, seed=seeds
    )
    size = one.data * one.responses if row.on_policy < 1 else 0
    tokens = {"sequences": TOKENS, "lengths": lengths.limit(one)}.get(one.problem, 1)
    return World(loop, look, len(settings), tokens, size)


def stacked_row(settings: Sequence[Setting], dtype: torch.dtype) -> Method:
    """The row, with one value per run of what differs between the runs."""
    row, many = settings[0].row, {}
    for name in row.per_run & settings[0].override.keys():
        values = [s.override[name] for s in settings]
        if len(set(values)) > 1:
            many[name] = torch.tensor(values, dtype=dtype)
    return row.override(**many)


def stacked_plan(settings: Sequence[Setting], dtype: torch.dtype) -> Plan:
    lr, limit = (torch.tensor([getattr(s, n) for s in settings], dtype=dtype) for n in ("lr", "max_grad_norm"))
    return replace(settings[0].plan, lr=lr, max_grad_norm=limit)
