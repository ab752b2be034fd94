"""For a training loop of one's own: texts as a batch, and its log-probs under any Hugging Face model.

Nothing here owns a model: it may be wrapped by Accelerate or DistributedDataParallel, be in training mode, or share
weights with another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefloop.core import kl
from prefloop.core.batch import Batch, label
from prefloop.core.errors import UserError
from prefloop.data.formats.loading import from_rows
from prefloop.policies import packing
from prefloop.policies.conversation import Tokenizer, template_of
from prefloop.policies.templates import AUTO


def encode(
    tokenizer: Tokenizer,
    rows: Iterable[Mapping[str, Any]],
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    template: str = AUTO,
    template_options: Mapping[str, Any] | None = None,
) -> Batch:
    """Rows of texts as a batch of token ids: prompt and responses as the chat template renders the conversation.

    Args:
        rows: such as `{"prompt": ..., "chosen": ..., "rejected": ...}`; any format of docs/formats.md, all of one.
        format: its name; `auto` detects it from the first row.
        columns: our column names and those of the rows, such as {"chosen": "response"}.
        template, template_options: see `conversation.template_of`.

    Returns:
        A batch with scores, where the rows have any: 1 and 0 of pairs, ratings, labels; with labels also as `labels`.

    Raises:
        UserError: an unknown format or column map.
        DataError: a row that cannot be used, or that the template rejects or changes.
    """
    groups = from_rows(rows, format=format, columns=columns)
    rendered = template_of(tokenizer, template, template_options).answered_all(groups)
    scores = [g.scores for g in groups if g.scores is not None]
    batch = Batch.from_groups(
        [one.prompt for one in rendered],
        [one.answers for one in rendered],
        scores if len(scores) == len(groups) else None,
    )
    if batch.scores is None or not all(len(s) == 1 and abs(s[0]) == 1 for s in scores):
        return batch
    return replace(batch, labels=label(batch.scores, 0.0))


def log_probs(model: nn.Module, batch: Batch) -> Float[Tensor, "P G T"]:
    """Log-probs of the response tokens of a batch under a causal language model, with a gradient if grad is enabled.

    One forward pass of `model`, so that hooks of wrappers run; in float32, or float64 if the model is. Its mode is left
    alone: with dropout, compare log-probs in `model.eval()` only.

    Args:
        batch: prompts as token ids, such as those of `encode` or `Batch.from_pairs`.
    """
    device = next(model.parameters()).device
    ids, widths = packing.inputs(batch), packing.widths(batch).flatten()
    seen = torch.arange(ids.shape[1]) < widths[widths > 0][:, None].cpu()
    logits = model(input_ids=ids.to(device), attention_mask=seen.to(device, torch.long)).logits
    wanted = logits.flatten(0, 1)[packing.positions(batch, ids.shape[1]).to(device)]
    logp = wanted.to(torch.promote_types(wanted.dtype, torch.float32)).log_softmax(-1)
    targets = batch.responses[batch.mask].to(device)
    return packing.spread(logp.gather(-1, targets.long()[:, None]).squeeze(-1), batch.mask)


def mismatched_kl(model: nn.Module, reference: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """KTO's z, one number for an optimiser batch: mean log π/π_ref of each prompt with the responses to another
    prompt, clamped at 0, without a gradient.

    Args:
        batch: whole groups of at least two prompts.

    Raises:
        UserError: a single prompt, which has no other one's responses.
    """
    if len(batch.prompts) < 2:
        what = "z compares a prompt with responses to another prompt, but the batch has only one"
        raise UserError(what, fix="use batches of two prompts or more")
    other = kl.mismatched(batch)
    with torch.no_grad():
        ratio = log_probs(model, other) - log_probs(reference, other).to(next(model.parameters()).device)
    each = ratio.sum(-1)[other.present.to(ratio.device)]
    return each.mean().clamp(min=0)
