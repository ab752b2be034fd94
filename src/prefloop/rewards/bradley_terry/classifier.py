"""Reward models in the layout of Hugging Face sequence classification with one label: reading and writing.

Such a model scores a conversation by one linear layer, `score`, on the hidden state of its last token. Only local
folders with safetensors weights are read; no model code is run and nothing is unpickled.
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
from prefloop.policies.folder import check_files, check_tokenizer, read_config, read_model, read_tokenizer
from prefloop.policies.pretrained import Tokenizer

HEAD = "score"  # name of the linear layer in transformers
WEIGHTS = "model.safetensors"
KIND = "ForSequenceClassification"
WHAT = "reward model"
TRAIN_ONE = "train one: prefloop reward train DATA --model MODEL --out DIR"


@dataclass(frozen=True)
class Classifier:
    """The parts of a sequence classifier with one label, in float32 and eval mode."""

    backbone: nn.Module
    head: nn.Linear
    tokenizer: Tokenizer
    context: int | None  # maximum number of tokens


def read(folder: Path) -> Classifier:
    """Read a reward model saved by transformers or another library.

    Raises:
        DataError: not a sequence classifier, more than one label, no safetensors weights, missing weights, or an
            architecture whose score is not one linear layer on the last token.
    """
    check_files(folder, WHAT)
    config = _config(folder)
    from transformers import AutoModelForSequenceClassification

    kind = AutoModelForSequenceClassification
    model = read_model(kind, folder, WHAT, spare=("lm_head.weight",), config=config, dtype=torch.float32)
    tokenizer = read_tokenizer(folder, WHAT)
    check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], folder, WHAT)
    backbone, head = _parts(model.requires_grad_(False), folder)
    return Classifier(backbone, head, tokenizer, getattr(config, "max_position_embeddings", None))


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


def _parts(model: Any, folder: Path) -> tuple[nn.Module, nn.Linear]:
    """Backbone and head, after checking that the model's own logit is head(last state of the backbone)."""
    backbone, head = model.base_model, getattr(model, HEAD, None)
    ids = torch.tensor([[i for i in range(4) if i != model.config.pad_token_id][:2]])
    if isinstance(head, nn.Linear):
        with torch.no_grad():
            own, linear = model(ids).logits, head(backbone(ids).last_hidden_state)[:, -1]
        if torch.allclose(linear, own, rtol=1e-3, atol=1e-4):
            return backbone, head
    what = f"{type(model).__name__} does not score by one linear layer on the last token: unsupported architecture"
    raise DataError(what, where=str(folder), fix="use a reward model on a causal language model")


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
