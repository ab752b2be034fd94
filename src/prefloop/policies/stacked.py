"""The base of policies with a leading run axis: named parameters [S, …], frozen copies, sampling by inverse CDF."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.streams import Stream

Kind = TypeVar("Kind", bound="Stacked")


@dataclass(frozen=True)
class Init:
    """Initialisation of a parameter: its shape in one run, and the standard deviation of a normal around `mean`."""

    shape: tuple[int, ...]
    std: float = 0.0
    mean: float = 0.0


def xavier(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """A weight [fan_in, fan_out] of variance gain² · 2/(fan_in + fan_out) (Glorot & Bengio 2010, eq. 16)."""
    return Init((fan_in, fan_out), std=gain * math.sqrt(2 / (fan_in + fan_out)))


def initialise(
    inits: Mapping[str, Init], seeds: Sequence[int], dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Parameters [S, …]; run s depends on seed s only.

    They are drawn in float64 and rounded, so that float32 and float64 runs start from the same values.
    """
    rng = Stream("init", seeds, stacked=True)
    drawn = {k: rng.randn(*i.shape, dtype=torch.float64) * i.std + i.mean for k, i in inits.items()}
    return {k: x.to(torch.float32).to(dtype) for k, x in drawn.items()}


def linear(x: Float[Tensor, "S N i"], weight: Float[Tensor, "S i o"], bias: Float[Tensor, "S o"]) -> Tensor:
    """x W + b, run by run."""
    return torch.baddbmm(bias[:, None], x, weight)


def layer_norm(x: Float[Tensor, "S *N D"], gain: Float[Tensor, "S D"], bias: Float[Tensor, "S D"]) -> Tensor:
    """Mean 0 and variance 1 over the last axis, then each run's own gain and bias."""
    shape = (len(gain), *[1] * (x.ndim - 2), gain.shape[-1])
    return torch.addcmul(bias.view(shape), torch.layer_norm(x, x.shape[-1:]), gain.view(shape))


def inverse_cdf(logp: Float[Tensor, "*B V"], u: Float[Tensor, "*B n"]) -> Int[Tensor, "*B n"]:
    """The categories at which the cumulative probability exceeds each u in [0, 1)."""
    cdf = logp.exp().cumsum(-1)
    place = torch.searchsorted(cdf, u * cdf[..., -1:], right=True)
    return place.clamp(max=logp.shape[-1] - 1)  # only NaN gives an index past the end: it must not stop the other runs


class Stacked:
    """Parameters by name, each [S, …], with independent runs.

    Args:
        weights: initial values; they are copied and become leaves with a gradient.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = {k: v.detach().clone().requires_grad_() for k, v in weights.items()}

    @property
    def exact_sampler(self) -> bool:
        return True

    @property
    def runs(self) -> int:
        return len(next(iter(self.weights.values())))

    def sync(self, version: int) -> None:
        """Nothing to do: the sampler is the policy itself."""

    def parameters(self) -> list[Tensor]:
        return list(self.weights.values())

    def frozen(self: Kind) -> Kind:
        """A copy without a gradient."""
        twin = copy.copy(self)
        twin.weights = {k: v.detach().clone() for k, v in self.weights.items()}
        return twin

    def take(self: Kind, runs: Int[Tensor, " s"]) -> Kind:
        """A policy of the same type with these runs, in this order; runs may be repeated."""
        twin = copy.copy(self)
        vars(twin).pop("anchor", None)  # it belongs to the whole stack
        twin.weights = {k: v.detach()[runs].clone().requires_grad_() for k, v in self.weights.items()}
        return twin

    def state(self) -> dict[str, Tensor]:
        return {k: v.detach().clone() for k, v in self.weights.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state[name])

    def micro_batches(self, batch: Batch) -> list[Int[Tensor, "*S m"]]:
        """One micro-batch with everything."""
        shape = batch.mask.shape[:-2]
        return [torch.arange(shape[-1]).expand(shape)]
