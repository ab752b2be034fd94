"""Causal language models from a local folder, a hub name or a wheel: load, render, save, adapt."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from prefloop.core.errors import DataError, UserError, raised
from prefloop.core.files import published, sha256
from prefloop.policies import adapters
from prefloop.policies.architecture import backbone_of, text_of
from prefloop.policies.cache import WEIGHTS_RECORD, quiet
from prefloop.policies.folder import (
    COMPANIONS,
    MODEL_FILES,
    check_files,
    check_tokenizer,
    read_config,
    read_json,
    read_model,
    read_tokenizer,
)
from prefloop.policies.selfcheck import check_evaluation
from prefloop.policies.smollm2 import SMOLLM2, smollm2

Model = Any  # transformers.PreTrainedModel or peft.PeftModel
Tokenizer = Any  # transformers.PreTrainedTokenizerBase
GENERATION = "generation_config.json"
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")

RUN, FINAL = "config.yaml", "final"  # what tells a run folder from a model, and where the run's model is


def load(path: str, *, dtype: torch.dtype = torch.float32, adapter: str | None = None) -> tuple[Model, Tokenizer]:
    """A causal language model in eval mode and its tokenizer.

    Args:
        path: a local folder in Hugging Face layout, a hub name, or "smollm2".
        dtype: data type of the weights.
        adapter: what is done with a folder that holds a LoRA adapter: `merge` or `continue`; None refuses it.

    Raises:
        UserError: the model does not exist.
        DataError: its files are not those of a whole causal language model, or the weights differ from the recorded
            hash.
    """
    folder = resolve(path)
    if adapters.is_adapter(folder) and adapter is not None:
        return adapters.load(folder, adapter, base=load(adapters.base_of(folder), dtype=dtype))
    if adapter is not None:
        fix = "leave `model.adapter` out, or give the folder of an adapter"
        raise UserError("`model.adapter` is given, but the model is not an adapter", where=str(folder), fix=fix)
    check_files(folder)
    _check_weights(folder)
    config = read_config(folder)
    model = read_model(_kind(config, folder), folder, config=config, dtype=dtype)
    tokenizer = read_tokenizer(folder)
    check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0], folder)
    check_evaluation(model)
    _freeze_images(model)
    return model, tokenizer


def tokenizer_of(path: str) -> tuple[Tokenizer, tuple[int, ...]]:
    """The tokenizer of a model, and the ids at which its generation configuration stops; weights are not read.

    Raises:
        UserError, DataError: as for `load`.
    """
    from transformers import GenerationConfig

    folder = resolve(path)
    name = next((n for n in (GENERATION, "config.json") if (folder / n).is_file()), None)
    stopped = stops(GenerationConfig.from_pretrained(folder, name, local_files_only=True)) if name else ()
    return read_tokenizer(folder), stopped


def stops(generation: Any) -> tuple[int, ...]:
    """The ids at which a generation configuration stops; `Template.ends` adds those of tokenizer and template."""
    ids = generation.eos_token_id
    return () if ids is None else tuple(ids) if isinstance(ids, list) else (ids,)


def _freeze_images(model: Model) -> None:
    """Leave out of training what text does not pass through: the parts that read images or sound."""
    text = text_of(model)
    if text is not backbone_of(model):
        model.requires_grad_(False)
        for part in (text, model.get_output_embeddings()):
            part.requires_grad_(True)


def _kind(config: Any, folder: Path) -> Any:
    """The class of transformers that loads a model of text.

    Raises:
        DataError: the model is not a causal language model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    named = config.architectures or []
    classifier = any("Classification" in name or "Reward" in name for name in named)
    other = classifier or config.is_encoder_decoder or any(name.endswith("MaskedLM") for name in named)
    kinds = [k for k in (AutoModelForCausalLM, AutoModelForImageTextToText) if type(config) in k._model_mapping]
    if kinds and not other:
        return next((k for k in kinds if getattr(k._model_mapping[type(config)], "__name__", "") in named), kinds[0])
    kind_of = "a classifier or reward model, " if classifier else ""
    what = f"{', '.join(named) or type(config).__name__} is {kind_of}not a causal language model"
    raise DataError(what, where=str(folder / "config.json"), fix="give a model that was made to write text")


def resolve(path: str) -> Path:
    """The local folder that holds the model's files; a run folder stands for its final model.

    Raises:
        UserError: the folder, the model in the hub cache, or the final model of the run does not exist.
    """
    if path == SMOLLM2:
        return smollm2()
    folder = Path(path).expanduser()
    if path and folder.is_dir():
        return _final(folder) if (folder / RUN).is_file() else folder
    if not HUB_NAME.fullmatch(path):
        raise UserError(
            "the model folder does not exist",
            where=str(folder),
            fix=f'give a local folder, a hub name such as owner/name, or "{SMOLLM2}"',
        )
    return _hub_folder(path)


def _final(run: Path) -> Path:
    if not (run / FINAL).is_dir():
        fix = f"finish it (prefloop train --resume {run}), or train with save.final=true"
        raise UserError("this run has no final model", where=str(run), fix=fix)
    return run / FINAL


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=list(MODEL_FILES)))
    except (OSError, ValueError) as error:
        fix = "give a local folder, or download it into the hub cache first"
        what = f"no model `{name}` as a folder or in the local hub cache"
        raise UserError(what, where="model.path", fix=fix) from error


def _check_weights(folder: Path) -> None:
    record = folder / WEIGHTS_RECORD
    if not record.is_file():
        return
    if sha256(folder / "model.safetensors") != record.read_text(encoding="utf-8").strip():
        raise DataError(
            "the weights differ from the recorded hash", where=str(folder), fix="delete the folder and start again"
        )


def model_hash(path: str) -> str:
    """SHA-256 of a model's weights: of the file if there is one, otherwise of lines `name hash` of the shards.

    Raises:
        UserError: the model does not exist or has no safetensors weights.
    """
    folder = resolve(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError("the model has no safetensors weights", where=str(folder), fix="convert it to safetensors")
    if adapters.is_adapter(folder):
        whole = f"{model_hash(adapters.base_of(folder))} {sha256(folder / adapters.WEIGHTS)}"
        return hashlib.sha256(whole.encode()).hexdigest()
    if len(files) == 1:
        return sha256(files[0])
    lines = "".join(f"{file.name} {sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def hub_name(path: str) -> str:
    """The model's name on a hub; empty if it is a folder or comes from a wheel."""
    named = path != SMOLLM2 and "/" in path and HUB_NAME.fullmatch(path) and not Path(path).expanduser().is_dir()
    return path if named else ""


def base_name(path: str) -> str:
    """Hub name or absolute folder of the model that an adapter of a run on `path` belongs to.

    Raises:
        UserError: the model does not exist.
    """
    folder = resolve(path)
    if adapters.is_adapter(folder):
        return base_name(adapters.base_of(folder))
    return hub_name(path) or str(folder.absolute())


def companions(path: str) -> tuple[Path, ...]:
    """The files of a model that say how it reads images, video and sound, and how it generates; of an adapter, its
    base model's.

    Raises:
        UserError: the model does not exist.
    """
    folder = resolve(path)
    own = tuple(file for name in COMPANIONS if (file := folder / name).is_file())
    return (*own, *(companions(adapters.base_of(folder)) if adapters.is_adapter(folder) else ()))


def save(
    model: Model,
    tokenizer: Tokenizer,
    folder: Path | str,
    card: str,
    *,
    beside: Sequence[Path] = (),
    base: str = "",
    ends: Collection[int] = (),
) -> None:
    """Write a model in Hugging Face layout atomically.

    A LoRA adapter is merged into a copy of the weights; the adapter itself is kept in a folder of its own.

    Args:
        beside: files to copy, such as `companions` of the model that was trained, unless the model writes its own.
        base: hub name or folder of the model that an adapter belongs to, see `base_name`.
        ends: ids at which the policy stops, so that transformers' `generate` stops there too.

    Raises:
        UserError: the folder exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError("the model folder already exists", where=str(folder), fix="choose another folder")
    adapted = adapters.is_adapted(model)
    copied = model if model.device.type == "cpu" and not adapted else _copied(model, "cpu").cpu()
    adapter = (lambda place: adapters.save(model, place, base)) if adapted else None
    _save(copied.merge_and_unload() if adapted else copied, tokenizer, folder, card, beside, adapter, ends)


def _copied(model: Model, device: str) -> Model:
    """A copy whose weights are on another device, `meta` for none at all; what is not a weight is copied as it is."""
    weights = {id(p): nn.Parameter(p.detach().to(device, copy=True), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, weights)


def _save(
    merged: Model,
    tokenizer: Tokenizer,
    folder: Path,
    card: str,
    beside: Sequence[Path] = (),
    adapter: Callable[[Path], None] | None = None,
    ends: Collection[int] = (),
    **weights: Any,
) -> None:
    with published(folder) as temporary, quiet():
        merged.save_pretrained(temporary, **weights)
        tokenizer.save_pretrained(temporary)
        for file in beside:
            if not (temporary / file.name).exists():
                shutil.copyfile(file, temporary / file.name)
        _stop_at(ends, temporary / GENERATION)
        if adapter is not None:
            adapter(temporary / adapters.KEPT)
        (temporary / "README.md").write_text(card, encoding="utf-8")


def _stop_at(ends: Collection[int], file: Path) -> None:
    """Add ids to those at which a generation configuration stops, if it is there and lacks one."""
    made = read_json(file) if file.is_file() else {}
    known = made.get("eos_token_id")
    own = set() if known is None else set(known) if isinstance(known, list) else {known}
    if made and not own.issuperset(ends):
        file.write_text(json.dumps(made | {"eos_token_id": sorted(own.union(ends))}, indent=2) + "\n", encoding="utf-8")


def try_to_save(model: Model, tokenizer: Tokenizer) -> None:
    """Save a copy without numbers and its smallest tensor, to find out before a training whether `save` will work.

    Raises:
        DataError: it will not.
    """
    try:
        copied = _copied(model, "meta")
        merged = copied.merge_and_unload() if adapters.is_adapted(model) else copied
        name, smallest = min(merged.named_parameters(), key=lambda item: item[1].numel())
        with TemporaryDirectory() as folder:
            one = {name: torch.zeros(smallest.shape, dtype=smallest.dtype)}
            _save(merged, tokenizer, Path(folder) / "model", "", state_dict=one)
    except Exception as error:  # the libraries raise anything
        fix = "use another model, or do not save it (save.final=false)"
        what = f"the trained model could not be saved: {raised(error)}"
        raise DataError(what, where="model.path", fix=fix) from error


def train_last_layers(model: Model, count: int) -> None:
    """Freeze everything except the last `count` layers, so that the backward pass ends there.

    Raises:
        UserError: the model has fewer layers.
    """
    layers = max(
        (m for m in text_of(model).modules() if isinstance(m, nn.ModuleList)), key=len, default=nn.ModuleList()
    )
    if not 1 <= count <= len(layers):
        fix = f"use 1 to {len(layers)}, or null to train all weights"
        raise UserError(f"cannot train {count} of {len(layers)} layers", where="model.trained_layers", fix=fix)
    model.requires_grad_(False)
    layers[-count:].requires_grad_(True)


def prompt_limit(model: Model, max_new_tokens: int) -> int | None:
    """Maximum number of prompt tokens that leaves space for a response in the context; None if there is no limit."""
    most = Limits.of(model.config).context
    return None if most is None else most - max_new_tokens


@dataclass(frozen=True)
class Limits:
    """What a model can read."""

    context: int | None = None  # tokens of a sequence; None: no limit
    vocabulary: int | None = None  # ids below this have an embedding; None: all

    @staticmethod
    def of(config: Any) -> Limits:
        """The limits in the configuration of a model."""
        text = config.get_text_config()
        found = (getattr(text, name, None) for name in ("max_position_embeddings", "vocab_size"))
        return Limits(*(None if limit is None else int(limit) for limit in found))


UNLIMITED = Limits()


def limits_of(path: str) -> Limits:
    """The limits of a model, or of the one that an adapter was trained on; weights are not read.

    Raises:
        UserError, DataError: as for `load`.
    """
    folder = resolve(path)
    return limits_of(adapters.base_of(folder)) if adapters.is_adapter(folder) else Limits.of(read_config(folder))


def check_prompt(tokens: int, limit: int | None, where: str) -> None:
    """Refuse an empty prompt and one that leaves no room for the response.

    Raises:
        DataError: the prompt has no tokens, or more than `limit`.
    """
    if tokens == 0:
        raise DataError("the prompt is empty", where=where, fix="remove it, or add text")
    if limit is not None and tokens > limit:
        raise DataError(
            f"the prompt has {tokens} tokens; the model's context minus max_new_tokens leaves {limit}",
            where=where,
            fix="shorten or drop it, or lower sampling.max_new_tokens",
        )
