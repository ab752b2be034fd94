"""Several processes that compute one run: all hold everything, each computes its share of the prompts, and what they
compute is added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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

    @property
    def parted(self) -> bool:
        """Whether each has only a part of every weight; then all must evaluate the policy equally often."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each; every process must ask for it."""


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    count: int = 1
    parted: bool = False

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
    """The micro-batches of this process, as rows of the batch; empty ones make their number the same in all."""
    if processes.count == 1:
        return policy.micro_batches(batch)
    shares = [torch.arange(i, len(batch.mask), processes.count).to(batch.mask.device) for i in range(processes.count)]
    each = [[rows[part] for part in policy.micro_batches(batch[rows])] for rows in shares]
    mine, most = each[processes.rank], max(map(len, each))
    return [*mine, *(shares[0][:0] for _ in range(most - len(mine)))]


def add_gradients(parameters: Iterable[Tensor], processes: Processes) -> None:
    """Replace each gradient by its sum over the processes: losses are divided by what all of them compute together.

    They are sent in pieces of some size: a message for every bias would wait, and one for all of them take their memory
    again. The gradients of parted weights are added up in the backward pass.

    Raises:
        RuntimeError: weights that should be parted are not.
    """
    if processes.parted:
        if not all(hasattr(p, "full_tensor") for p in parameters):
            raise RuntimeError("the optimiser would change weights that are gathered, not the parts of them")
        return
    piece, size = list[Tensor](), 0
    for grad in (p.grad for p in parameters if processes.count > 1 and p.grad is not None):
        if piece and (size + grad.numel() > PIECE or (grad.dtype, grad.device) != (piece[0].dtype, piece[0].device)):
            _add(piece, processes)
            piece, size = [], 0
        piece.append(grad)
        size += grad.numel()
    if piece:
        _add(piece, processes)


# ---- parted weights (DTensor) -------------------------------------------------------------------------------------


def whole(x: Any) -> Any:
    """A tensor of which each process has a part as one that all have; every process must ask. Others as they are."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def gathered(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an optimiser keeps of a weight, without parts."""
    return {name: whole(x) for name, x in values.items()}


def like(x: Tensor, weight: Tensor) -> Tensor:
    """The part of a tensor that this process has of a weight of the same shape; `x` itself if that is not parted."""
    if not hasattr(weight, "full_tensor") or x.shape != weight.shape:
        return x
    from torch.distributed.tensor import distribute_tensor

    parted: Any = weight
    return distribute_tensor(x.to(weight.device), parted.device_mesh, parted.placements)


def dealt(states: Mapping[str, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """Copies of what an optimiser keeps of each weight, parted as the weights are."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    return {int(k): {name: like(x.clone(), weights[int(k)]) for name, x in v.items()} for k, v in states.items()}


def _add(grads: list[Tensor], processes: Processes) -> None:
    total = processes.sum(torch.cat([grad.flatten() for grad in grads]))
    for grad, part in zip(grads, torch.split(total, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(part.view_as(grad))
