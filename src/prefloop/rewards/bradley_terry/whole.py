"""Reward models that score by their own forward pass: encoders, and heads that are more than one linear layer."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from prefloop.core.errors import DataError, raised
from prefloop.data.records import Group
from prefloop.policies.architecture import close, plain_ids, state_size, unsupported
from prefloop.policies.conversation import Template, template_of
from prefloop.policies.pretrained import Tokenizer
from prefloop.policies.templates import AUTO, PLAIN
from prefloop.rewards.bradley_terry.encoding import Row, Rows
from prefloop.rewards.bradley_terry.options import Pooling
from prefloop.rewards.bradley_terry.pooling import WIDTH, pooled

KIND = "ForSequenceClassification"  # ending of the names of classifiers
POOLER = "pooler"  # a layer of the base model that belongs to its head: not every file holds it
PAIR = "pair"  # kind of a template that puts question and answer between the marks of an encoder


class Whole(nn.Module):
    """A model that reads whole rows, in both directions or by its own head: from rows to what a linear layer reads.

    Args:
        model: with pooling `head` a sequence classifier with one label, without the linear layer of its score, or with
            it: then it gives the score itself. Otherwise an encoder, whose states are pooled.
        typed: whether it is told which of two texts a token belongs to.
        place: name of that layer; empty if the score does not come from one.
        size: number of features.
        pooling: how states become features.
    """

    def __init__(self, model: Any, *, typed: bool, place: str = "", size: int = 1, pooling: Pooling = "head") -> None:
        super().__init__()
        self.model, self.typed, self.place, self.size, self.pooling = model, typed, place, size, pooling
        self.training = False
        self.apart = not self._is_batched()

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def is_classifier(self) -> bool:
        """Whether its files are those of a sequence classifier, with a head of its own."""
        return any(name.endswith(KIND) for name in self.config.architectures or [])

    def pooled(self, pooling: Pooling) -> Whole:
        """The same encoder read otherwise: by its head as it is, or without its head, its states pooled."""
        return self if pooling == "head" else encoder(self.model.base_model, pooling, typed=self.typed)

    def weights(self, head: nn.Linear) -> tuple[dict[str, Tensor], Tensor | None]:
        """The weights of the classifier with its layer; its bias apart if the layer has none."""
        own = "bias" in self.model.get_submodule(self.place).names
        layer = {f"{self.place}.{name}": x for name, x in head.state_dict().items() if name == "weight" or own}
        return self.model.state_dict() | layer, None if own else head.bias

    def forward(self, rows: Sequence[Row]) -> Float[Tensor, "n D"]:
        """Features; rows are read one at a time if the model would read them otherwise in a batch."""
        parts = [[row] for row in rows] if self.apart else [rows]
        return torch.cat([self._features(part) for part in parts])

    def _features(self, rows: Sequence[Row]) -> Float[Tensor, "n D"]:
        device, pad = self.device, self.config.get_text_config().pad_token_id
        ids = pad_sequence([row.ids for row in rows], batch_first=True, padding_value=pad or 0).to(device)
        length = torch.tensor([len(row.ids) for row in rows], device=device)[:, None]
        place = torch.arange(ids.shape[1], device=device)
        given: dict[str, Tensor] = {"attention_mask": (place < length).long()}
        if self.typed and rows[0].paired:
            start = length - torch.tensor([row.response for row in rows], device=device)[:, None]
            given["token_type_ids"] = ((place >= start) & (place < length)).long()
        made = self.model(ids, **given)
        return (
            made.logits.float()
            if self.pooling == "head"
            else pooled(made.last_hidden_state.float(), rows, self.pooling)
        )

    def _is_batched(self) -> bool:
        ids = torch.tensor(plain_ids(self.model, 8))
        rows = [Row(ids[:n], 1, False) for n in (8, 6, 3)]
        try:
            with torch.no_grad():
                return close(self._features(rows), torch.cat([self._features([row]) for row in rows]))
        except ValueError:  # no padding token
            return False


def encoder(model: Any, pooling: Pooling, *, typed: bool) -> Whole:
    """An encoder whose states are pooled; the layer behind them (`pooler`), which nothing reads, is taken out."""
    without_pooler(model)
    return Whole(model, typed=typed, size=WIDTH[pooling] * state_size(model), pooling=pooling)


def without_pooler(model: Any) -> None:
    """Take out the layer that base models have behind their states for classifiers, in place."""
    if getattr(model, POOLER, None) is not None:
        setattr(model, POOLER, None)


class Removed(nn.Identity):
    """In the place of a linear layer that was taken out."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.names = tuple(name for name, _ in layer.named_parameters())
        self.training = False


def parted(model: Any, *, typed: bool) -> tuple[Whole, nn.Linear]:
    """A classifier without the linear layer of its score, and that layer; or whole, and a layer that changes nothing.

    Args:
        model: changed in place.

    Raises:
        DataError: the model cannot be run on text alone.
    """
    place, own = linear_place(model), _trial(model)
    if place:
        layer = model.get_submodule(place)
        model.set_submodule(place, Removed(layer))
        features = _trial(model)
        with torch.no_grad():
            found = layer(features) if features.shape[-1] == layer.in_features else own + 1
        if torch.allclose(found, own, rtol=1e-3, atol=1e-4):
            return Whole(model, typed=typed, place=place, size=layer.in_features), layer
        model.set_submodule(place, layer)
    return Whole(model, typed=typed), _identity()


@torch.no_grad()
def _trial(model: Any) -> Tensor:
    try:
        made: Tensor = model(torch.tensor([plain_ids(model, 4)])).logits
    except Exception as error:  # the model's own code may raise anything on text alone
        raise unsupported(model, f"cannot be run on text alone: {raised(error)}") from error
    return made


def linear_place(model: Any) -> str:
    """Name of the linear layer behind the base model that makes one number; empty if there is none."""
    inside = set(model.base_model.modules())
    made = ((name, m) for name, m in model.named_modules() if m not in inside)
    return next((name for name, m in reversed([*made]) if isinstance(m, nn.Linear) and m.out_features == 1), "")


def _identity() -> nn.Linear:
    made = nn.utils.skip_init(nn.Linear, 1, 1)
    nn.init.ones_(made.weight)
    nn.init.zeros_(made.bias)
    return made.requires_grad_(False)


def is_encoder(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer puts two texts between marks of their own, as those of encoders do."""
    return tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None


def template_for(
    tokenizer: Tokenizer, setting: str = AUTO, options: Mapping[str, Any] | None = None, *, date: str | None = None
) -> Template:
    """How a reward model reads conversations: `template_of`, or, for an encoder without a chat template, as a pair.

    Args:
        setting, options, date: as of `template_of`; the setting may also be PAIR.

    Raises:
        UserError: there is no such file, or the tokenizer has no chat template.
    """
    plain = setting in (PLAIN, PAIR) or (setting == AUTO and not tokenizer.chat_template)
    if not (plain and is_encoder(tokenizer)):
        return template_of(tokenizer, setting, options, date=date)
    marked = copy.copy(tokenizer)
    marked.chat_template = _marks(tokenizer)
    return Template(marked, PAIR, {}, (tokenizer.sep_token_id,), "question and answer as a pair of texts")


def _marks(tokenizer: Tokenizer) -> str:
    """Question and answer between the marks of an encoder, as a chat template."""
    start, end = (f"{{{{ {json.dumps(token)} }}}}" for token in (tokenizer.cls_token, tokenizer.sep_token))
    return f"{start}{{% for m in messages %}}{{{{ m['content'] }}}}{end}{{% endfor %}}"


def unmarked(template: Template) -> Tokenizer:
    """The tokenizer as it was before `template_for`."""
    if template.kind != PAIR:
        return template.tokenizer
    bare = copy.copy(template.tokenizer)
    bare.chat_template = None
    return bare


def context(model: Any, tokenizer: Tokenizer) -> int | None:
    """Maximum number of tokens; None if there is no limit. Some tables of positions begin behind the padding's."""
    named = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Embedding)]
    tables = [(m.num_embeddings, m.padding_idx) for name, m in named if name.endswith("position_embeddings")]
    limits: list[Any] = [size - 1 - padding for size, padding in tables if padding is not None]
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
    return Row(torch.tensor(made["input_ids"]), len(sides) - start, cut, paired=True)
