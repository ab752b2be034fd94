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
from prefloop.rewards.bradley_terry.whole import KIND, Whole, context, parted

HEAD = "score"  # name of the linear layer in transformers
WEIGHTS = "model.safetensors"
WHAT = "reward model"
TRAIN_ONE = "train one: prefloop reward train DATA --model MODEL --out DIR"


@dataclass(frozen=True)
class Classifier:
    """The parts of a sequence classifier with one label, in float32 and eval mode."""

    backbone: nn.Module  # gives hidden states, or, as `Whole`, what the head reads
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
    config = config_of(folder)
    from transformers import AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification
    model = read_model(kind, folder, WHAT, spare="lm_head.weight".__eq__, config=config, dtype=torch.float32)
    tokenizer = read_tokenizer(folder, WHAT)
    check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], folder, WHAT)
    model.requires_grad_(False)
    head, most = getattr(model, HEAD, None), context(model, tokenizer)
    if isinstance(head, nn.Linear) and _is_linear(model, head):
        return Classifier(model.base_model, head, tokenizer, most, model.config.get_text_config().pad_token_id)
    backbone, last = parted(model, typed="token_type_ids" in tokenizer.model_input_names)
    return Classifier(backbone, last, tokenizer, most)


def config_of(folder: Path) -> Any:
    """The configuration of a sequence classifier with one label.

    Raises:
        DataError: another architecture, or more labels.
    """
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


def write(folder: Path, backbone: nn.Module, head: nn.Linear, tokenizer: Tokenizer) -> float | None:
    """Write configuration, weights and tokenizer.

    Returns:
        What the logit lacks of the score: the head's bias where the layout has no place for it, otherwise 0. None if
        transformers has no such class for this backbone in float32; then nothing is written.
    """
    if isinstance(backbone, Whole):
        return _write_whole(folder, backbone, head, tokenizer)
    config: Any = copy.deepcopy(backbone.config)
    config.num_labels, config.pad_token_id = 1, _padding(tokenizer, config.vocab_size)
    made = empty(config)
    if made is None or backbone.dtype != torch.float32:
        return None
    weights = {f"{made.base_model_prefix}.{name}": x for name, x in backbone.state_dict().items()}
    weights[f"{HEAD}.weight"] = head.weight.detach()
    if _shapes(weights) != _shapes(made.state_dict()):
        return None
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = None if config.pad_token_id is None else tokenizer.convert_ids_to_tokens(config.pad_token_id)
    _save(folder, config, type(made).__name__, weights, padded)
    return float(head.bias.item())


def _write_whole(folder: Path, backbone: Whole, head: nn.Linear, tokenizer: Tokenizer) -> float:
    weights, bias = backbone.weights(head)
    _save(folder, copy.deepcopy(backbone.config), type(backbone.model).__name__, weights, tokenizer)
    return 0.0 if bias is None else float(bias.item())


def _save(folder: Path, config: Any, kind: str, weights: dict[str, Tensor], tokenizer: Tokenizer) -> None:
    config.architectures = [kind]
    config.save_pretrained(folder)
    save_file({name: x.cpu().contiguous() for name, x in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def empty(config: Any) -> Any | None:
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
