"""The device that computes: chosen by name or refused in words, and what a run says and records about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from prefloop.core.errors import UserError

CPU = torch.device("cpu")
GIB = 2**30


def gpus() -> dict[str, str]:
    """Every GPU that torch can use, by the name to ask for it: `{"cuda:0": "NVIDIA H200, 139 GiB"}`."""
    if torch.cuda.is_available():
        seen = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return {f"cuda:{i}": f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for i, gpu in enumerate(seen)}
    return {"mps": "Apple GPU"} if torch.backends.mps.is_available() else {}


def chosen(setting: str, where: str = "model.device") -> torch.device:
    """The device of a setting: `auto` takes the first GPU and, without one, the CPU.

    Raises:
        UserError: it is not there.
    """
    there = gpus()
    if setting == "auto":
        return torch.device(next(iter(there), "cpu"))
    name = "cuda:0" if setting == "cuda" else setting
    if name != "cpu" and name not in there:
        has = f"there are {', '.join(there)}" if there else _why_none(setting)
        raise UserError(f"there is no device `{setting}`: {has}", where=where, fix=f"use {', '.join(there) or 'cpu'}")
    return torch.device(name)


def _why_none(setting: str) -> str:
    if setting.startswith("cuda") and torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    return "torch sees no GPU"


def said(device: torch.device, setting: str = "auto") -> str:
    """One line on where a run computes, why, and which GPUs it leaves idle."""
    there, name = gpus(), str(device)
    kind = f" ({there[name]})" if name in there else ""
    why = (", because torch sees no GPU" if device == CPU else ", the first GPU") if setting == "auto" else ""
    idle = [gpu for gpu in there if gpu != name]
    unused = f"; not used: {', '.join(idle)} (a run computes on one device)" if idle else ""
    return f"computing on {name}{kind}{why}{unused}"


def recorded(device: torch.device) -> dict[str, str | None]:
    """The device and its GPU, for manifests."""
    return {"device": str(device), "gpu": gpus().get(str(device))}


def sent(x: Tensor, device: torch.device) -> Tensor:
    """On the device; a copy to a GPU goes through pinned memory, and nobody waits for it."""
    if x.device == device or device.type == "mps" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def finest(device: torch.device) -> torch.dtype:
    """The most precise data type of floating-point numbers on a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def wait(device: torch.device) -> None:
    """Wait until the device has done all its work, for timing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def repeatable(device: torch.device) -> None:
    """Make later work on a CUDA device give the same bytes every time; operations that cannot raise RuntimeError."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def unchecked() -> Iterator[None]:
    """For cumulative sums along rows: torch calls all of them non-deterministic, which only long single rows are."""
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was)
