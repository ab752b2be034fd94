"""Several processes that compute one run: all hold everything, each computes its share of the prompts, and what they
compute is added up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.protocols import Policy

PIECE = 2**24  # numbers of a message: 64 MiB in float32


@runtime_checkable
class Processes(Protocol):
    """The processes that compute one run: all hold everything, each computes its share of the prompts."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0; process 0 writes the records."""

    @property
    def count(self) -> int: ...

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each; every process must ask for it."""


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    count: int = 1

    def sum(self, x: Tensor) -> Tensor:
        return x


ALONE = Alone()


def share(prompts: int, processes: Processes) -> Int[Tensor, " p"]:
    """The prompts of this process, of so many: every `count`-th, so that neighbours of like length are spread."""
    return torch.arange(processes.rank, prompts, processes.count)


def check_shares(minibatch: int, responses: int, processes: Processes) -> None:
    """Refuse more processes than a minibatch has prompts.

    Raises:
        UserError: a process would have nothing to do.
    """
    if (prompts := minibatch // responses) < processes.count:
        what = f"a minibatch of {prompts} prompts cannot be shared by {processes.count} processes"
        raise UserError(what, fix=f"training.minibatch={processes.count * responses}, or fewer processes")


def shared_out(policy: Policy, batch: Batch, processes: Processes) -> list[Int[Tensor, "*S m"]]:
    """The micro-batches of this process, as rows of the batch."""
    if processes.count == 1:
        return policy.micro_batches(batch)
    mine = share(len(batch.mask), processes).to(batch.mask.device)
    return [mine[rows] for rows in policy.micro_batches(batch[mine])]


def add_gradients(parameters: Iterable[Tensor], processes: Processes) -> None:
    """Replace each gradient by its sum over the processes: losses are divided by what all of them compute together.

    They are sent in pieces of some size: a message for every bias would wait, and one for all of them take their memory
    again.
    """
    piece, size = list[Tensor](), 0
    for grad in (p.grad for p in parameters if processes.count > 1 and p.grad is not None):
        if piece and (size + grad.numel() > PIECE or (grad.dtype, grad.device) != (piece[0].dtype, piece[0].device)):
            _add(piece, processes)
            piece, size = [], 0
        piece.append(grad)
        size += grad.numel()
    if piece:
        _add(piece, processes)


def _add(grads: list[Tensor], processes: Processes) -> None:
    total = processes.sum(torch.cat([grad.flatten() for grad in grads]))
    for grad, part in zip(grads, torch.split(total, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
