"""LoRA adapters: new ones, and those on disk, which are merged into their base model or trained on as they are."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.core.errors import DataError, UserError, nearest
from prefloop.policies.architecture import backbone_of, text_of
from prefloop.policies.cache import quiet
from prefloop.policies.folder import ADAPTER, check_pointers, read_json, read_tokenizer, unreadable

WEIGHTS = "adapter_model.safetensors"
KEPT = "adapter"  # folder of an adapter beside the model that it is merged into


@dataclass(frozen=True)
class Lora:
    """New adapters (Hu et al. 2021).

    Args:
        rank: rank of each adapter.
        alpha: the adapter's update is scaled by alpha / rank; twice the rank by default.
        dropout: share of an adapter's inputs that is dropped where `dropped` allows it.
        targets: names of linear layers, or their last parts; empty: all except the head and those that read images.
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


def with_lora(model: Any, lora: Lora, *, seed: int = 0) -> Any:
    """Add low-rank adapters to linear layers; only they are trainable.

    Args:
        seed: seed of the adapters' initialisation, which leaves the model's outputs unchanged.

    Raises:
        UserError: `peft` is not installed, the rank is below 1, or a target is no linear layer of the model.
    """
    if lora.rank < 1:
        raise UserError("the LoRA rank must be at least 1", where="model.lora_rank", fix="use 0 to train all weights")
    if importlib.util.find_spec("peft") is None:
        raise UserError("LoRA needs the package `peft`", where="model.lora_rank", fix="pip install peft")
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_targets(model, lora.targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        return get_peft_model(model, config).eval()


def _targets(model: Any, named: Sequence[str]) -> str | list[str]:
    """The linear layers that get adapters."""
    from transformers.pytorch_utils import Conv1D

    text = text_of(model)
    if text is backbone_of(model) and not named:
        return "all-linear"
    inside = set(text.modules())
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m in inside]
    for name in named:
        if not any(_ends_with(layer, name) for layer in linear):
            known = sorted({layer.rpartition(".")[2] for layer in linear})
            fix = f"{nearest(name, known)}; its linear layers: {', '.join(known)}"
            raise UserError(f"the model has no linear layer `{name}`", where="model.lora_targets", fix=fix)
    return [layer for layer in linear if not named or any(_ends_with(layer, name) for name in named)]


def _ends_with(layer: str, name: str) -> bool:
    return f".{layer}".endswith(f".{name}")


def is_adapted(model: Any) -> bool:
    """Whether the model has adapters."""
    return hasattr(model, "merge_and_unload")


def save(model: Any, folder: Path, base: str) -> None:
    """Write the adapter of a model, which `load` and peft read.

    Args:
        base: hub name or folder of the model that it belongs to; by default where it was loaded from.
    """
    state = {key: x.cpu() for key, x in model.state_dict().items()}
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=state)
    (folder / "README.md").unlink(missing_ok=True)  # a form with no entries
    config = read_json(folder / ADAPTER)
    config["base_model_name_or_path"] = base or config["base_model_name_or_path"]
    config["target_modules"] = sorted(config["target_modules"])
    (folder / ADAPTER).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def dropouts(model: Any) -> list[nn.Module]:
    """The layers that drop inputs of new adapters."""
    if not is_adapted(model) or starts_adapted(model):
        return []
    return [m for name, m in model.named_modules() if "lora_dropout." in name and isinstance(m, nn.Dropout) and m.p]


@contextmanager
def dropped(layers: Sequence[nn.Module], ids: Tensor, device: torch.device) -> Iterator[None]:
    """A context in which these layers, on a device, drop inputs; which ones depends on the token ids only."""
    seed = hashlib.sha256(ids.cpu().numpy().tobytes()).digest()[:8]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(seed, "big") >> 1)
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, with or without a whole model beside it."""
    return (folder / ADAPTER).is_file()


def base_of(folder: Path) -> str:
    """Folder or hub name of the model that an adapter was trained on.

    Raises:
        DataError: the adapter names none.
    """
    named = read_json(folder / ADAPTER).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        fix = "set `base_model_name_or_path` to the folder of the base model"
        raise DataError("the adapter does not name its base model", where=str(folder / ADAPTER), fix=fix)
    beside = folder / named
    return str(beside) if not Path(named).expanduser().is_dir() and beside.is_dir() else named


def load(folder: Path, how: str, base: tuple[Any, Any]) -> tuple[Any, Any]:
    """The base model with the adapter merged into its weights (`merge`) or as adapter to train (`continue`).

    The tokenizer is the adapter's own, if its folder has one.

    Raises:
        UserError: `peft` is not installed.
        DataError: not a LoRA adapter, or its weights are missing, broken or made for another model.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError("an adapter needs the package `peft`", where="model.adapter", fix="pip install peft")
    from peft import PeftModel

    check_pointers(folder)
    method = read_json(folder / ADAPTER).get("peft_type")
    if method != "LORA":
        fix = "only LoRA adapters can be merged or continued"
        raise DataError(f"the adapter is of the kind {method}", where=str(folder / ADAPTER), fix=fix)
    if not (folder / WEIGHTS).is_file():
        fix = "save it as safetensors; pickles (adapter_model.bin) are never loaded"
        raise DataError(f"the adapter has no {WEIGHTS}", where=str(folder), fix=fix)
    model, tokenizer = base
    with warnings.catch_warnings(record=True) as said, quiet():
        warnings.simplefilter("always")
        try:
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
        except Exception as error:  # damaged files may raise anything
            raise unreadable(error, folder, "adapter") from error
    if any("missing adapter keys" in str(warning.message) for warning in said):
        raise DataError(
            "weights of the adapter are missing and would be newly initialised",
            where=str(folder),
            fix=f"check that {ADAPTER} and {WEIGHTS} belong together, and to this base model",
        )
    own = read_tokenizer(folder) if (folder / "tokenizer_config.json").is_file() else tokenizer
    if how == "merge":
        return adapted.merge_and_unload().requires_grad_(True).eval(), own
    vars(adapted)["starts_adapted"] = True
    return adapted.eval(), own


def starts_adapted(model: Any) -> bool:
    """Whether the adapters are part of the model that training starts from, rather than new."""
    return bool(getattr(model, "starts_adapted", False))
