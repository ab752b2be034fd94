"""The processes of torch.distributed, as the loop adds up what each of them computes."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from prefloop.core.errors import UserError
from prefloop.core.files import digest

PATIENCE = timedelta(hours=2)  # longer than a process waits for the first to write a checkpoint


class Group:
    """The processes of torch.distributed; see `core.processes.Processes`.

    Args:
        rank: the number of this process, from 0.
        count: the number of processes.
        where: URL at which they meet, or None for the environment's variables.
        parted: whether each has only a part of every weight.
    """

    def __init__(self, rank: int, count: int, where: str | None = None, *, parted: bool = False) -> None:
        self.rank, self.count, self.parted = rank, count, parted and count > 1
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=where, rank=rank, world_size=count, timeout=PATIENCE)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each.

        Raises:
            UserError: another process has ended.
        """
        total = x.detach().to(torch.int32 if x.dtype == torch.bool else x.dtype, copy=True).contiguous()
        try:
            dist.all_reduce(total)
        except RuntimeError as error:
            what = "another process of this run has ended"
            raise UserError(what, where=f"process {self.rank}", fix="see its message") from error
        return total.to(x.dtype)

    def check_alike(self, text: str, what: str) -> None:
        """Refuse processes that were given different things.

        Raises:
            UserError: the texts differ.
        """
        own = torch.tensor(int(digest(text)[:12], 16))
        if int(self.sum(own)) != self.count * int(own):
            raise UserError(f"the processes of this run have different {what}", fix="start all with the same command")

    def close(self) -> None:
        """Leave the other processes."""
        dist.destroy_process_group()
