"""Samples of a model on disk, so that the same question is not paid for twice."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.files import write
from prefloop.policies.cache import cache_root

FIELDS = ("responses", "mask", "logp_proximal")


def _file(key: str) -> Path:
    return cache_root() / "samples" / f"{key}.npz"


def read(key: str, prompts: Sequence[Tensor]) -> Batch | None:
    """What was kept under a key; None if there is nothing whole."""
    with suppress(OSError, ValueError, KeyError):
        with np.load(_file(key), allow_pickle=False) as stored:
            responses, mask, logp = (torch.from_numpy(stored[name]) for name in FIELDS)
        return Batch(list(prompts), responses.long(), mask, logp_proximal=logp)
    return None


def kept(key: str, drawn: Batch) -> None:
    """Keep samples; a folder that cannot be written costs nothing but the next time."""
    arrays = {name: getattr(drawn, name).numpy() for name in FIELDS}
    arrays["responses"] = arrays["responses"].astype(np.int32)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    with suppress(OSError):
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write(_file(key), packed.getvalue())
