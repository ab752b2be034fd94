"""A LoRA adapter on disk: merged into its base model, or trained on as it is."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from prefloop.core.errors import DataError, UserError
from prefloop.policies.cache import quiet
from prefloop.policies.folder import ADAPTER, check_pointers, read_json, read_tokenizer, unreadable

WEIGHTS = "adapter_model.safetensors"


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
