"""A disk cache of fitted tensors, named by a digest of what determines them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.core.files import replacing
from prefloop.policies.cache import cache_root


def cached(name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the cache, or computed and stored there; files are written atomically."""
    device = str(torch.get_default_device())
    file = cache_root() / "lab" / f"{name}.safetensors"
    try:
        return load_file(file, device)
    except (OSError, SafetensorError):  # missing or incomplete
        made = make()
    with replacing(file) as temporary:
        save_file({k: x.detach().cpu().contiguous() for k, x in made.items()}, temporary)
    return load_file(file, device)  # in the order of the file, in every process
