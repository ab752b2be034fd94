"""Token rows of a batch for a causal language model: packing within a token budget, inputs, positions, features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from prefloop.core.batch import Batch


def packs(widths: Sequence[int], budget: int, rows: Sequence[int] | None = None) -> list[list[int]]:
    """Indices of items in packs whose padded size is within the budget, widest first; a single item may exceed it.

    Args:
        widths: tokens in the longest row of each item.
        budget: maximum number of tokens of a pack, padding included.
        rows: number of rows of each item; 1 by default.
    """
    out: list[list[int]] = []
    used, widest = 0, 0
    for i in sorted(range(len(widths)), key=lambda i: -widths[i]):
        own = 1 if rows is None else rows[i]
        used += own
        if not out or used * widest > budget:
            out.append([])
            used, widest = own, widths[i]
        out[-1].append(i)
    return out


def micro_batches(batch: Batch, budget: int) -> list[Int[Tensor, " _"]]:
    """Prompt indices of each micro-batch: groups of similar length, longest first."""
    rows, widest = (batch.lengths > 0).sum(-1), widths(batch).amax(-1)
    return [torch.tensor(pack) for pack in packs(widest.tolist(), budget, rows.tolist())]


def widths(batch: Batch) -> Int[Tensor, "P G"]:
    """Tokens that the backbone reads: the last response token is only predicted."""
    ends = _ends(batch)
    return torch.where(ends > 0, _starts(batch) + ends - 1, 0)


def inputs(batch: Batch) -> Int[Tensor, "R L"]:
    """Prompt and response of every response that has tokens, padded on the right with 0."""
    rows = [
        torch.cat([prompt.to(answer.device), answer[: max(end - 1, 0)]])
        for prompt, group, ends in zip(batch.prompts, batch.responses, _ends(batch).tolist(), strict=True)
        for answer, end in zip(group, ends, strict=True)
        if end > 0
    ]
    return pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0, dtype=torch.long)


def positions(batch: Batch, width: int) -> Int[Tensor, " N"]:
    """Positions in the flattened `inputs` of that width that predict each response token."""
    used = _ends(batch).flatten() > 0
    prompt, answer, token = batch.mask.nonzero(as_tuple=True)
    row = (used.cumsum(0) - 1)[prompt * batch.mask.shape[1] + answer]
    return row * width + _starts(batch).squeeze(-1)[prompt] - 1 + token


def spread(x: Float[Tensor, " N"], mask: Bool[Tensor, "P G T"]) -> Float[Tensor, "P G T"]:
    """Values of the response tokens at their positions, 0 elsewhere."""
    x = x.to(mask.device)
    return torch.zeros(mask.shape, dtype=x.dtype, device=mask.device).masked_scatter(mask, x)


def features(hidden: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> Float[Tensor, "P G T H"]:
    """The hidden state before each response token, 0 elsewhere.

    Args:
        hidden: input ids [R, L] and flat positions [N] -> states [N, H], such as `CausalLM.network.hidden`.
    """
    ids = inputs(batch)
    states = hidden(ids, positions(batch, ids.shape[1]))
    out = states.new_zeros(*batch.mask.shape, states.shape[-1])
    out[batch.mask.to(out.device)] = states
    return out


def _starts(batch: Batch) -> Int[Tensor, "P 1"]:
    return torch.tensor([len(p) for p in batch.prompts], device=batch.mask.device)[:, None]


def _ends(batch: Batch) -> Int[Tensor, "P G"]:
    """One past the last response token, 0 for an empty response."""
    return (batch.mask * torch.arange(1, batch.mask.shape[-1] + 1, device=batch.mask.device)).amax(-1)
