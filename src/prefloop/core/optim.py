"""Adam and gradient clipping for stacked runs, each with its own statistics, learning rate and norm; schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.core.objectives import per_run
from prefloop.core.ranges import Number

Schedule = Literal["constant", "linear", "cosine"]


def rate(schedule: Schedule, step: int, steps: int, warmup: int) -> float:
    """The learning rate of a step (from 0) as a share of the highest: (step + 1)/warmup in the first `warmup` steps,
    then constant, or falling to 0 after the last step: linearly, or as half a cosine (Loshchilov & Hutter 2017).
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (step - warmup) / (steps - warmup)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


class StackedAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1) on parameters [S, …]; `lr` is one number or one per run, [S].

    At S=1 it is `torch.optim.Adam`.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: Number, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[p], group["betas"]
        if not state:
            state |= {
                "step": torch.zeros((), device="cpu"),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }
        state["step"] += 1
        t = float(state["step"])
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(grad, 1 - b1)
        square.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        scale = square.sqrt().div_(math.sqrt(1 - b2**t)).add_(group["eps"])
        if isinstance(group["lr"], Tensor):
            p.addcdiv_(mean * per_run(group["lr"], p), scale, value=-1 / (1 - b1**t))
        else:
            p.addcdiv_(mean, scale, value=-group["lr"] / (1 - b1**t))


def decayed(parameters: Iterable[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Groups of parameters for AdamW: matrices with the weight decay; biases, norms and single numbers without it."""
    matrices, others = list[Tensor](), list[Tensor]()
    for p in parameters:
        (matrices if p.ndim > 1 or not weight_decay else others).append(p)
    sides = ((matrices, weight_decay), (others, 0.0))
    return [{"params": some, "weight_decay": decay} for some, decay in sides if some]


def clip_gradients(parameters: Sequence[Tensor], limit: Number, *, stacked: bool = False) -> Float[Tensor, "*S"]:
    """Scale gradients in place to a global norm of at most `limit`, per run if stacked; return the norm before."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not stacked:
        total: Tensor = torch.nn.utils.clip_grad_norm_(list(parameters), float(limit))
        parted: Any = getattr(total, "full_tensor", None)  # where each process has a part of every weight
        total = total if parted is None else parted()
        return total
    norm = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in grads]).square().sum(0).sqrt()
    limit = limit.to(norm.device) if isinstance(limit, Tensor) else limit
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    if bool((scale < 1).any()):
        for g in grads:
            g.mul_(per_run(scale, g))
    return norm


def hold(parameters: Sequence[Tensor], runs: Bool[Tensor, " S"]) -> None:
    """Set the gradients of these runs to 0, finite or not: with a learning rate of 0 they are frozen."""
    for p in parameters:
        if p.grad is not None:
            p.grad[runs] = 0.0
