"""The manifest of a run: versions, hardware, hashes. Imports no torch, so that reports can use it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

PACKAGES = ("prefloop", "torch", "transformers", "tokenizers", "safetensors", "numpy", "peft", "gguf")
FEATURES = (
    "amx_bf16",
    "amx_tile",
    "avx512_bf16",
    "avx512f",
    "avx2",
    "bf16",
    "sve",
)  # CPU features that matter for matmul speed
CPU: Mapping[str, str | None] = MappingProxyType({"device": "cpu", "gpu": None})


def manifest(
    *,
    seeds: Mapping[str, int],
    objective: Mapping[str, Any],
    data: Mapping[str, str],
    model: Mapping[str, str],
    trained_on: Mapping[str, int] = MappingProxyType({}),
    held_out: Mapping[str, Any] = MappingProxyType({}),
    threads: int,
    device: Mapping[str, str | None] = CPU,
    sources: Mapping[str, str] = MappingProxyType({}),
    notes: Iterable[str] = (),
) -> dict[str, Any]:
    """The contents of `manifest.json`.

    Args:
        seeds: seeds of the run and of its parts.
        objective: the method as optimised: formula, switches, hyper-parameters.
        data: SHA-256 of each data file, by name.
        model: name or path, SHA-256 of the weights, and so on.
        trained_on: number of training examples and of their responses.
        held_out: number and digest of the held-out examples of a run, see `held_out.recorded`.
        device: where the run computed, see `devices.recorded`.
        threads: number of torch threads; results are reproducible byte for byte only with the same number.
        sources: SHA-256 of the user's own code and of saved reward models, by the names in the configuration.
        notes: information for readers, such as a substitute for behaviour log-probs.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
        "versions": versions(),
        "hardware": {**hardware(), "threads": threads, **device},
        "seeds": dict(seeds),
        "objective": dict(objective),
        "data": dict(data),
        **({"trained_on": dict(trained_on)} if trained_on else {}),
        **({"held_out": dict(held_out)} if held_out else {}),
        "model": dict(model),
        "sources": dict(sources),
        "notes": list(notes),
    }


def command() -> list[str]:
    """The command line, with the program's name instead of its path."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that can change a result; None if not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        if package == "prefloop":  # run from source, not installed
            from prefloop import __version__

            return __version__
        return None


def hardware() -> dict[str, Any]:
    """System, processor, its matrix features, usable cores and memory in bytes."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": info.get("model name") or platform.processor() or platform.machine(),
        "features": [name for name in FEATURES if name in flags],
        "cores": cores,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor in /proc/cpuinfo; empty if the file does not exist."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}
