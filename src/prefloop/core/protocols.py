"""The interfaces that the loop requires of a policy, a sampler and a problem; worlds implement these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.streams import Stream


@dataclass(frozen=True)
class Evaluation:
    """A policy's evaluation of given responses; log-probs are next-token aligned, untempered and 0 off the mask."""

    logp: Float[Tensor, "*S P G T"]
    entropy: Float[Tensor, "*S P G T"] | None = None
    values: Float[Tensor, "*S P G T"] | None = None


def no_op() -> None:
    """Default callback: does nothing."""


@runtime_checkable
class Sampler(Protocol):
    """Writes responses: the policy itself, or an engine that is synchronised with its weights."""

    @property
    def exact_sampler(self) -> bool:
        """Whether it samples from the distribution that `evaluate` returns: temperature 1, no truncation."""

    def sync(self, version: int) -> None:
        """Load the policy's weights after `version` optimiser steps; called before every collection."""

    def draw(self, prompts: Any, responses: int, rng: Stream, poll: Callable[[], None] = no_op) -> Batch:
        """New groups with `logp_behaviour` (of the sampler); polls at every token.

        The policy itself also gives `logp_proximal` (untempered); the loop computes that of an engine if it is needed.
        """


@runtime_checkable
class Policy(Protocol):
    """A distribution over responses that can be evaluated and trained."""

    def evaluate(self, batch: Batch, *, entropy: bool = False, values: bool = False) -> Evaluation:
        """Differentiable log-probs of whole groups."""

    def micro_batches(self, batch: Batch) -> list[Int[Tensor, "*S m"]]:
        """A partition of the prompts into index sets that fit into memory."""

    def parameters(self) -> list[Tensor]: ...

    def reference(self) -> Policy:
        """A frozen copy in evaluation mode."""

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: dict[str, Tensor]) -> None: ...


@runtime_checkable
class Enumerable(Protocol):
    """A policy that can sum over all responses."""

    def exact_kl(self, batch: Batch) -> Float[Tensor, "*S P G"]:
        """KL(π‖π_ref) of each prompt, for every response of its group."""


@runtime_checkable
class Problem(Protocol):
    """Where prompts, offline responses and scores come from."""

    def prompts(self, start: int, count: int, rng: Stream) -> Any:
        """Prompts number `start` to `start + count` of an endless stream."""

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        """Groups from the dataset, with the scores that the dataset has."""

    def score(self, batch: Batch) -> Batch:
        """The batch with scores, all from the same scorer."""
