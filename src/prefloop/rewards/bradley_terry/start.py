"""The model that a reward model starts from: a causal language model, an encoder, or a classifier with one label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefloop.core.errors import DataError
from prefloop.policies import adapters, pretrained
from prefloop.policies.folder import check_files, check_tokenizer, read_config, read_model, read_tokenizer
from prefloop.policies.pretrained import Model, Tokenizer
from prefloop.rewards.bradley_terry import classifier as sequence_classifier
from prefloop.rewards.bradley_terry.options import Pooling
from prefloop.rewards.bradley_terry.whole import KIND, POOLER, Whole, linear_place, parted

READ = {  # what an encoder's states are pooled to
    "mean": "the mean of its states over the answer",
    "cls": "the state of the first token",
    "last": "the state of the last token",
    "both": "the state of the last token and the mean over the answer",
}
WRITES = ("ForCausalLM", "LMHeadModel")  # endings of the classes of encoders that were made to write text


@dataclass(frozen=True)
class Start:
    """A model to fit, and its tokenizer."""

    model: Model | Whole
    tokenizer: Tokenizer
    new: tuple[str, ...] = ()  # weights of a head that no file holds, without its last layer, which is always fitted

    def note(self, frozen: bool, pooling: Pooling) -> str:
        """What a reader of the results must know; empty if nothing."""
        if not isinstance(self.model, Whole):
            return ""
        if pooling != "head":
            return f"an encoder: the head reads {READ[pooling]} (--pooling {pooling})"
        if not self.new:
            return ""
        more = f" and {len(self.new) - 1} more" if len(self.new) > 1 else ""
        end = "stay random with a frozen backbone (--no-freeze-backbone trains them)" if frozen else "start at random"
        return f"weights of the head that the model's files lack {end}: {self.new[0]}{more}"


def load(path: str, *, seed: int = 0) -> Start:
    """A model to fit a reward model to, in float32 and eval mode.

    Args:
        path: a local folder in Hugging Face layout, a hub name, or "smollm2".
        seed: seed of weights that no file holds.

    Raises:
        UserError: the model does not exist.
        DataError: its files are not those of a whole model, or no reward model can be made of it, which is found out
            before weights are read.
    """
    folder = pretrained.resolve(path)
    if adapters.is_adapter(folder):
        return Start(*pretrained.load(path))
    check_files(folder)
    config = read_config(folder)
    named = config.architectures or []
    is_classifier = any(name.endswith(KIND) for name in named)
    if not is_classifier and not _is_encoder(config):
        return Start(*pretrained.load(path))
    if config.is_encoder_decoder:
        raise _unsuited(config, "it has an encoder and a decoder")
    if is_classifier:
        read = sequence_classifier.read(folder)
        start = Start(read.backbone, read.tokenizer)
    else:
        start = _encoder(folder, config, seed)
    if isinstance(start.model, Whole) and not start.model.place:
        raise _unsuited(config, "its score does not come from a linear layer")
    return start


def _is_encoder(config: Any) -> bool:
    """Whether a model reads whole texts, in both directions or with a decoder, rather than being made to write them."""
    from transformers import AutoModelForMaskedLM

    writes = any(name.endswith(WRITES) for name in config.architectures or [])
    return config.is_encoder_decoder or (type(config) in AutoModelForMaskedLM._model_mapping and not writes)


def _encoder(folder: Path, config: Any, seed: int) -> Start:
    """An encoder with a new head, without the last layer of it."""
    from transformers import AutoModelForSequenceClassification

    config.num_labels = 1
    empty = sequence_classifier.empty(config)
    if empty is None or not linear_place(empty):
        raise _unsuited(config, "transformers has no classifier for it whose score comes from a linear layer")
    last, missing, of_head = linear_place(empty), list[str](), _of_a_head(empty)

    def noted(name: str) -> bool:
        missing.append(name)
        return of_head(name)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind, exact = AutoModelForSequenceClassification, {"config": config, "dtype": torch.float32}
        model = read_model(kind, folder, spare=of_head, new=noted, **exact)
    tokenizer = read_tokenizer(folder)
    check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
    whole, _ = parted(model, typed="token_type_ids" in tokenizer.model_input_names)
    return Start(whole, tokenizer, tuple(name for name in missing if not name.startswith(f"{last}.")))


def _of_a_head(empty: Any) -> Callable[[str], bool]:
    """Whether a weight belongs to a head, of this classifier or of another task, rather than to the encoder."""
    prefix = f"{empty.base_model_prefix}."
    inside = {name for name, _ in empty.base_model.named_children()} - {POOLER}

    def holds(name: str) -> bool:
        part = name.removeprefix(prefix).split(".")[0]
        return part == POOLER if name.startswith(prefix) else part not in inside

    return holds


def _unsuited(config: Any, why: str) -> DataError:
    what = f"{', '.join(config.architectures or []) or type(config).__name__} cannot become a reward model: {why}"
    return DataError(what, where="--model", fix="use a causal language model, or an encoder such as BERT or DeBERTa")
