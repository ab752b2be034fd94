"""Reward models that score by their own forward pass: encoders, and heads that are more than one linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prefloop.core.errors import DataError
from prefloop.data.records import Group
from prefloop.policies.architecture import close, plain_ids
from prefloop.policies.pretrained import Tokenizer
from prefloop.rewards.bradley_terry.encoding import Row, Rows


class Whole(nn.Module):
    """A sequence classifier with one label, from rows to its own scores.

    Args:
        paired: whether it reads question and answer as a pair of texts, as encoders without a chat template do.
        typed: whether it is told which of the two texts a token belongs to.
    """

    def __init__(self, model: Any, *, paired: bool, typed: bool) -> None:
        super().__init__()
        self.model, self.paired, self.typed = model, paired, typed
        self.training = False
        self.apart = not self._is_batched()

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    def forward(self, rows: Sequence[Row]) -> Float[Tensor, "n 1"]:
        """Scores; rows are read one at a time if the model would score them otherwise in a batch."""
        parts = [[row] for row in rows] if self.apart else [rows]
        return torch.cat([self._scored(part) for part in parts])

    def _scored(self, rows: Sequence[Row]) -> Float[Tensor, "n 1"]:
        device, pad = self.device, self.model.config.get_text_config().pad_token_id
        ids = pad_sequence([row.ids for row in rows], batch_first=True, padding_value=pad or 0).to(device)
        length = torch.tensor([len(row.ids) for row in rows], device=device)[:, None]
        place = torch.arange(ids.shape[1], device=device)
        given: dict[str, Tensor] = {"attention_mask": (place < length).long()}
        if self.typed:
            start = length - torch.tensor([row.response for row in rows], device=device)[:, None]
            given["token_type_ids"] = ((place >= start) & (place < length)).long()
        scores: Tensor = self.model(ids, **given).logits.float()
        return scores

    def _is_batched(self) -> bool:
        ids = torch.tensor(plain_ids(self.model, 8))
        rows = [Row(ids[:n], 1, False) for n in (8, 6, 3)]
        try:
            with torch.no_grad():
                return close(self._scored(rows), torch.cat([self._scored([row]) for row in rows]))
        except ValueError:  # no padding token
            return False


def is_encoder(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer puts two texts between marks of their own, as those of encoders do."""
    return tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None


def context(model: Any, tokenizer: Tokenizer) -> int | None:
    """Maximum number of tokens; None if there is no limit. Some tables of positions begin behind the padding's."""
    tables = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    limits = [m.num_embeddings - 1 - m.padding_idx for m in tables if getattr(m, "padding_idx", None) is not None]
    limits += [getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length]
    return min((int(limit) for limit in limits if limit and limit > 0), default=None)


def paired_rows(tokenizer: Tokenizer, groups: Sequence[Group], max_tokens: int) -> Rows:
    """All responses of the groups as pairs of texts, the longer of which is cut to the limit.

    Raises:
        DataError: a prompt of several messages, for which such a model has no place.
    """
    rows: list[Row] = []
    places = []
    for group in groups:
        if len(group.prompt) > 1:
            what = "the reward model reads one question and one answer, but the prompt has several messages"
            fix = "give prompts of one message, or a reward model with a chat template"
            raise DataError(what, where=f"row {group.row}", fix=fix)
        places.append(tuple(range(len(rows), len(rows) + len(group.responses))))
        rows += [_pair(tokenizer, group.prompt[0].content, answer, max_tokens) for answer in group.responses]
    return Rows(tuple(rows), tuple(places))


def _pair(tokenizer: Tokenizer, question: str, answer: str, max_tokens: int) -> Row:
    options = {"return_attention_mask": False, "split_special_tokens": True}  # a mark that a text spells is text
    whole = tokenizer(question, answer, verbose=False, **options)
    cut = len(whole["input_ids"]) > max_tokens
    made = tokenizer(question, answer, truncation=True, max_length=max_tokens, **options) if cut else whole
    sides = made.sequence_ids()
    start = sides.index(1) if 1 in sides else len(sides)
    return Row(torch.tensor(made["input_ids"]), len(sides) - start, cut)
