"""The loop that fits references and reward models: Adam on a loss, with a new batch at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.core.errors import DataError
from prefloop.core.optim import StackedAdam, clip_gradients

Rate = Callable[[int], float]  # step -> learning rate


def unobserved(step: int, loss: float) -> None:
    """Default observer: does nothing."""


def constant(lr: float) -> Rate:
    """The same learning rate at every step."""
    return lambda step: lr


def falling(lr: float, steps: int, *, warmup: int = 1) -> Rate:
    """Linear from `lr` to 0 after `steps`, times (step + 1)/warmup in the first `warmup` steps."""
    return lambda step: lr * min(1.0, (step + 1) / warmup) * (1 - step / steps)


def minimise(
    parameters: Sequence[Tensor],
    losses: Callable[[int], Iterable[Float[Tensor, ""]]],
    steps: int,
    *,
    lr: Rate,
    limit: float = math.inf,
    stacked: bool = False,
    observe: Callable[[int, float], None] = unobserved,
) -> None:
    """Minimise a loss in place by Adam (Kingma & Ba 2015).

    Args:
        parameters: [S, …] if stacked.
        losses: parts of the loss of a step (from 0), differentiated one after another; their sum is the loss.
        limit: of the gradient's norm, per run if stacked.
        stacked: S independent runs, whose losses are summed.
        observe: called at every step with its number (from 1) and loss.

    Raises:
        DataError: a gradient is not finite.
    """
    optimizer = StackedAdam(parameters, lr=0.0)  # every step sets its own
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for part in losses(step):
            torch.autograd.backward(part)
            total += float(part.detach())
        if not bool(torch.isfinite(clip_gradients(parameters, limit, stacked=stacked)).all()):
            raise DataError(f"the fit diverged: a gradient is not finite at step {step + 1}", fix="lower `lr`")
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        optimizer.step()
        observe(step + 1, total)
