"""Reward models in the layout of Hugging Face sequence classification with one label: reading and writing.

Most score a conversation by one linear layer, `score`, on the hidden state of its last token that is not padding; all
others by their own forward pass. Only local folders with safetensors weights are read; no model code is run and nothing
is unpickled.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prefloop.core.errors import DataError
from prefloop.policies.architecture import plain_ids
from prefloop.policies.folder import check_files, check_tokenizer, read_config, read_model, read_tokenizer
from prefloop.policies.pretrained import Tokenizer
from prefloop.rewards.bradley_terry.encoding import last_place
from prefloop.rewards.bradley_terry.whole import Whole, context, is_encoder

HEAD = "score"  # name of the linear layer in transformers
WEIGHTS = "model.safetensors"
KIND = "ForSequenceClassification"
WHAT = "reward model"
TRAIN_ONE = "train one: prefloop reward train DATA --model MODEL --out DIR"


@dataclass(frozen=True)
class Classifier:
    """The parts of a sequence classifier with one label, in float32 and eval mode."""

    backbone: nn.Module  # gives hidden states, or, as `Whole`, scores
    head: nn.Linear
    tokenizer: Tokenizer
    context: int | None  # maximum number of tokens
    padding: int | None = None  # the score is read at the last token that is not this one


def read(folder: Path) -> Classifier:
    """Read a reward model saved by transformers or another library.

    Raises:
        DataError: not a sequence classifier, more than one label, or not all of a model's files.
    """
    check_files(folder, WHAT)
    config = _config(folder)
    from transformers import AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification
    model = read_model(kind, folder, WHAT, spare=("lm_head.weight",), config=config, dtype=torch.float32)
    tokenizer = read_tokenizer(folder, WHAT)
    check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], folder, WHAT)
    model.requires_grad_(False)
    head, most = getattr(model, HEAD, None), context(model, tokenizer)
    if isinstance(head, nn.Linear) and _is_linear(model, head):
        return Classifier(model.base_model, head, tokenizer, most, model.config.get_text_config().pad_token_id)
    paired = not tokenizer.chat_template and is_encoder(tokenizer)
    typed = paired and "token_type_ids" in tokenizer.model_input_names
    return Classifier(Whole(model, paired=paired, typed=typed), _identity(), tokenizer, most)


def _config(folder: Path) -> Any:
    config = read_config(folder, WHAT)
    kinds = config.architectures or []
    if not any(name.endswith(KIND) for name in kinds):
        what = f"not a reward model: its architecture is {', '.join(kinds) or 'not given'}, not …{KIND}"
        raise DataError(what, where=str(folder / "config.json"), fix=TRAIN_ONE)
    if config.num_labels != 1:
        what = f"the model has {config.num_labels} labels; a reward model must have one"
        raise DataError(what, where=str(folder / "config.json"), fix="use a model with num_labels = 1")
    return config


def _is_linear(model: Any, head: nn.Linear) -> bool:
    """Whether the model's own score is head(state of the last token that is not padding), with and without padding."""
    padding = model.config.get_text_config().pad_token_id
    ids = plain_ids(model, 4)
    rows = [
        ids,
        ids[:2],
        *([] if padding is None else [[*ids, padding], [ids[0], padding, *ids[1:3], padding, padding]]),
    ]
    with torch.no_grad():
        own = [model(torch.tensor([row])).logits[0] for row in rows]
        states = [head(model.base_model(torch.tensor([row])).last_hidden_state[0]) for row in rows]
    linear = [state[last_place(torch.tensor(row), padding)] for row, state in zip(rows, states, strict=True)]
    return torch.allclose(torch.stack(linear), torch.stack(own), rtol=1e-3, atol=1e-4)


def _identity() -> nn.Linear:
    """A head that leaves a score as it is."""
    made = nn.utils.skip_init(nn.Linear, 1, 1)
    nn.init.ones_(made.weight)
    nn.init.zeros_(made.bias)
    return made.requires_grad_(False)


def write(folder: Path, backbone: nn.Module, head: nn.Linear, tokenizer: Tokenizer) -> bool:
    """Write configuration, weights and tokenizer, without the head's bias, which the layout does not support.

    Returns:
        Whether transformers has such a class for this backbone in float32; if not, nothing is written.
    """
    config: Any = copy.deepcopy(backbone.config)
    config.num_labels, config.pad_token_id = 1, _padding(tokenizer, config.vocab_size)
    empty = _empty(config)
    if empty is None or backbone.dtype != torch.float32:
        return False
    weights = {f"{empty.base_model_prefix}.{name}": x.contiguous() for name, x in backbone.state_dict().items()}
    weights[f"{HEAD}.weight"] = head.weight.detach().contiguous()
    if _shapes(weights) != _shapes(empty.state_dict()):
        return False
    config.architectures = [type(empty).__name__]
    config.save_pretrained(folder)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = None if config.pad_token_id is None else tokenizer.convert_ids_to_tokens(config.pad_token_id)
    padded.save_pretrained(folder)
    return True


def _empty(config: Any) -> Any | None:
    """The classifier without allocated weights; None if transformers has no such class."""
    from transformers import AutoModelForSequenceClassification

    try:
        with torch.device("meta"):
            return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError:  # raised by transformers for configurations without such a class
        return None


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: x.shape for name, x in weights.items()}


def _padding(tokenizer: Tokenizer, vocabulary: int) -> int | None:
    """A special token that does not end a response: transformers scores at the last token that is not padding.

    Many tokenizers pad with the EOS; transformers would then score at the token before the EOS.
    """
    named = [tokenizer.pad_token_id, *tokenizer.all_special_ids]
    return next((i for i in named if i is not None and i != tokenizer.eos_token_id and i < vocabulary), None)
