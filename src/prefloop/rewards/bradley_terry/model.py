"""A Bradley-Terry reward model: a linear head on the hidden states of a language model, fitted to pairs.

P(w ≻ l) = σ(s_w − s_l) (Bradley & Terry 1952; Ouyang et al. 2022, eq. 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prefloop.core.batch import Batch
from prefloop.core.errors import DataError
from prefloop.core.protocols import no_op
from prefloop.data.records import Group, prompt_text
from prefloop.policies.conversation import Template, Tokenizer
from prefloop.policies.packing import packs
from prefloop.rewards.bradley_terry.encoding import (
    Comparison,
    Row,
    Rows,
    Said,
    Scored,
    comparison,
    encode,
    make_row,
    said_rows,
)
from prefloop.rewards.bradley_terry.options import Pooling
from prefloop.rewards.bradley_terry.pooling import pooled
from prefloop.rewards.bradley_terry.whole import PAIR, Whole, paired_rows


@dataclass(frozen=True)
class BradleyTerry:
    """A fitted reward model; `score_batch` is a scorer for token ids of the same tokenizer."""

    backbone: nn.Module
    head: nn.Linear  # float32, to one score
    template: Template  # renders the conversations that it scores
    whole: bool = False  # whether it reads all that the template renders, as third-party models do, or up to the end
    pooling: Pooling = "last"  # what the head reads, see `pooled`; or `head`: what layers of its own make of the states
    padding: int | None = None  # the last token is the last one that is not this one
    max_tokens: int = 1024  # longer sequences are cut on the left
    micro_tokens: int = 8192  # maximum number of tokens per forward pass, padding included
    autocast: bool = False  # bfloat16 matrix products of the backbone
    facts: Mapping[str, int | float | str] = field(default_factory=dict)  # how it was fitted and how good it is
    trained_on: frozenset[str] = frozenset()  # digests of its training questions

    @property
    def tokenizer(self) -> Tokenizer:
        return self.template.tokenizer

    @property
    def paired(self) -> bool:
        """Whether it reads question and answer as a pair of texts."""
        return self.template.kind == PAIR

    def on(self, device: torch.device) -> BradleyTerry:
        """The model, its weights moved to a device."""
        return replace(self, backbone=self.backbone.to(device), head=self.head.to(device))

    @property
    def is_traced(self) -> bool:
        """Whether its training questions are known."""
        return bool(self.trained_on)

    def score_batch(self, batch: Batch) -> Float[Tensor, "P G"]:
        """One score per response, 0 on the empty slots of ragged groups; no gradient."""
        present, lengths = batch.present.cpu(), batch.lengths.tolist()
        places = [(p, g) for p, g in present.nonzero().tolist()]
        rows = [self._row(batch.prompts[p], batch.responses[p, g, : lengths[p][g]]) for p, g in places]
        scores = torch.zeros(present.shape)
        scores[present] = self.scores(rows)
        return scores.to(batch.mask.device)

    def score_said(self, said: Sequence[Said], poll: Callable[[], None] = no_op) -> Float[Tensor, " n"]:
        """Scores of answers of a policy with another tokenizer or template; no gradient.

        Raises:
            DataError: a prompt that the chat template rejects or changes, or that the model has no place for.
        """
        return self.scores(self.said(said), poll)

    def said(self, said: Sequence[Said]) -> Sequence[Row]:
        """The rows of such answers."""
        if self.paired:  # read with all their marks, whether or not they ended
            return paired_rows(self.tokenizer, [one.answered for one in said], self.max_tokens).rows
        return said_rows(self.template, said, self.max_tokens, whole=self.whole)

    def score_groups(self, groups: Sequence[Group], poll: Callable[[], None] = no_op) -> Scored:
        """Scores of all responses of the groups, in their order; no gradient.

        Raises:
            DataError: no response, or a prompt that the chat template rejects.
        """
        encoded = self.encode(groups)
        if not encoded.rows:
            raise DataError("no responses to score", fix="give pairs, or rows with `responses`")
        places = torch.tensor([place for own in encoded.places for place in own])
        group = torch.tensor([i for i, own in enumerate(encoded.places) for _ in own])
        length = torch.tensor([row.length for row in encoded.rows])
        cut = torch.tensor([row.cut for row in encoded.rows])
        return Scored(self.scores(encoded.rows, poll)[places], length[places], group, cut[places])

    def compare(self, groups: Sequence[Group]) -> Comparison:
        """Margins of all strict preferences in the groups.

        Raises:
            DataError: no preference, or a prompt that the chat template rejects.
        """
        return comparison(groups, self.score_groups(groups))

    def encode(self, groups: Sequence[Group]) -> Rows:
        """The rows that it reads.

        Raises:
            DataError: a conversation that it has no place for, or that the chat template rejects or changes.
        """
        if self.paired:
            return paired_rows(self.tokenizer, groups, self.max_tokens)
        return encode(self.template, groups, self.max_tokens, whole=self.whole)

    def _row(self, prompt: Tensor, response: Tensor) -> Row:
        """The row of a sampled response, closed as given ones are if it ended."""
        said = response.tolist()
        if said and said[-1] in self.template.ends:
            said = [*said[:-1], *(self.template.closing if self.whole else (self.template.end,))]
        return make_row(prompt.cpu(), torch.tensor(said, dtype=torch.long), self.max_tokens)

    def scores(self, rows: Sequence[Row], poll: Callable[[], None] = no_op) -> Float[Tensor, " n"]:
        with torch.no_grad():
            return self.head(self.features(rows, poll)).squeeze(-1).cpu()

    def features(self, rows: Sequence[Row], poll: Callable[[], None] = no_op) -> Float[Tensor, "n D"]:
        """Pooled hidden states of all rows, without a gradient; the longest rows go first."""
        features = torch.zeros(len(rows), self.head.in_features, device=self.head.weight.device)
        with torch.no_grad():
            for part in packs([len(r.ids) for r in rows], self.micro_tokens):
                poll()
                features[part] = self.pool([rows[i] for i in part])
        return features

    def pool(self, rows: Sequence[Row]) -> Float[Tensor, "n D"]:
        """Pooled hidden states, differentiable. Padding is on the right, so causal attention needs no mask."""
        device = self.head.weight.device
        if isinstance(self.backbone, Whole):
            with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
                return self.backbone(rows)
        ids = pad_sequence([r.ids for r in rows], batch_first=True).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            hidden = self.backbone(ids, use_cache=False).last_hidden_state.float()
        return pooled(hidden, rows, self.pooling, self.padding)


def known(group: Group, trained_on: Collection[str]) -> bool:
    """Whether a model was fitted to the question of a group, recognised by its prompt or its key."""
    return any(digest in trained_on for digest in digests(group))


def digests(group: Group) -> tuple[str, ...]:
    """Digests of a question: of its prompt without the system message, and of its key if that is not the prompt."""
    asked = prompt_text([m for m in group.prompt if m.role != "system"])
    own = () if group.key in (asked, group.text) else (_digest(f"key\0{group.key}"),)
    return (_digest(asked), *own)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
