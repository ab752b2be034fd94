"""Named random streams: one generator per purpose and per run, never torch's global one.

Numbers are drawn on the CPU, so that they are the same for every device, and given on torch's default device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

STREAMS = ("prompts", "dataset", "sampling", "shuffle", "signal", "evaluation")


class Stream:
    """Random numbers for one purpose: one generator per run, so that a stacked run equals a single one."""

    def __init__(self, name: str, seeds: Sequence[int], stacked: bool) -> None:
        self.name, self.seeds, self.stacked = name, tuple(seeds), stacked
        self.generators = [torch.Generator().manual_seed(_derive(s, name)) for s in seeds]

    def rand(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform on [0, 1), `[*S, *shape]`."""
        return self._each(lambda g: torch.rand(*shape, generator=g, dtype=dtype, device="cpu"))

    def randn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Standard normal, `[*S, *shape]`."""
        return self._each(lambda g: torch.randn(*shape, generator=g, dtype=dtype, device="cpu"))

    def epoch(self, n: int, number: int) -> Int[Tensor, "*S n"]:
        """The order of epoch `number` over n items: it depends on the seed only, so it needs no state."""
        each = [torch.Generator().manual_seed(_derive(s, f"{self.name}/{number}")) for s in self.seeds]
        return self._each(lambda g: torch.randperm(n, generator=g, device="cpu"), each)

    def state(self) -> Tensor:
        return torch.stack([g.get_state() for g in self.generators])

    def restore(self, state: Tensor) -> None:
        for generator, row in zip(self.generators, state, strict=True):
            generator.set_state(row.clone())  # torch reads a view from the start of its storage

    def _each(self, draw: Any, generators: Sequence[torch.Generator] = ()) -> Tensor:
        drawn = [draw(g) for g in generators or self.generators]
        return (torch.stack(drawn) if self.stacked else drawn[0]).to(torch.get_default_device())


def streams(seed: int | Sequence[int]) -> dict[str, Stream]:
    """Named, independent random streams; a sequence of seeds gives stacked runs."""
    stacked = not isinstance(seed, int)
    seeds = [seed] if isinstance(seed, int) else list(seed)
    return {name: Stream(name, seeds, stacked) for name in STREAMS}


def _derive(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}:{seed}".encode()).digest()[:8], "little") >> 1
