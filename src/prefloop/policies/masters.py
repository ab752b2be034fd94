"""Float32 copies of low-precision weights, in which small updates accumulate."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

_steps: Any = WeakIdKeyDictionary()  # copy -> optimiser steps: fused optimisers do not count as changes of a tensor


class Masters:
    """The float32 master copies of a model's trainable weights of lower precision (Micikevicius et al. 2018, §3.1).

    Gradients are summed in the copies, and the optimiser changes these; the weights are the copies, rounded. An update
    below the weights' resolution is therefore not lost.

    Args:
        weights: trainable weights of any precision; those of float32 and more need no copy.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        low = [p for p in weights if p.is_floating_point() and p.element_size() < 4]
        self._copies = {p: p.detach().float().requires_grad_() for p in low}
        for p, copy in self._copies.items():
            _steps[copy] = 0
            p.register_post_accumulate_grad_hook(partial(_hand_over, copy))
        self._rounded = self._versions()

    def of(self, weight: Tensor) -> Tensor:
        """The tensor that an optimiser changes in place of a weight: its copy, or the weight itself."""
        return self._copies.get(weight, weight)  # type: ignore[call-overload]

    def round(self) -> None:
        """Set the weights to their copies, rounded, if these have changed since."""
        now = self._versions()
        if now != self._rounded:
            with torch.no_grad():
                for p, copy in self._copies.items():
                    p.copy_(copy)
            self._rounded = now

    def _versions(self) -> list[tuple[int, int]]:
        """How often each copy has been changed, and by optimisers."""
        return [(copy._version, _steps[copy]) for copy in self._copies.values()]


def _hand_over(copy: Tensor, weight: Tensor) -> None:
    """Add a micro-batch's gradient to that of the copy."""
    assert weight.grad is not None
    grad = weight.grad.float()
    copy.grad = grad if copy.grad is None else copy.grad.add_(grad)
    weight.grad = None


def _count(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p in _steps:
                _steps[p] += 1


register_optimizer_step_post_hook(_count)
