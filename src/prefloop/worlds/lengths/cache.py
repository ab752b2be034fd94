"""Fitted tensors that are kept between processes, each under a name that says what made it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.policies.cache import cache_root


def digest(told: Any) -> str:
    """A short name for what JSON can say."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]


def kept(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the cache, or made and put there; a file appears whole or not at all."""
    file = cache_root() / "lab" / f"{name}.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError):  # not there, or not whole
        made = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    save_file({k: x.detach().contiguous() for k, x in made.items()}, temporary)
    temporary.replace(file)
    return load_file(file)  # in the order of the file, whoever made it
