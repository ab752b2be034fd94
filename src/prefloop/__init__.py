"""Preference fine-tuning as one loop with three switches: on-policy sampling, sample reuse, negative gradient."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefloop.core.batch import Batch, Signal
    from prefloop.core.loop import Loop, Plan, train
    from prefloop.core.method import Method
    from prefloop.core.methods import METHODS
    from prefloop.policies.own_loop import encode, log_probs, mismatched_kl

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "Batch",
    "Loop",
    "Method",
    "Plan",
    "Signal",
    "__version__",
    "encode",
    "log_probs",
    "mismatched_kl",
    "train",
]

_HOMES = {
    "METHODS": "prefloop.core.methods",
    "Method": "prefloop.core.method",
    "Batch": "prefloop.core.batch",
    "Signal": "prefloop.core.batch",
    "Loop": "prefloop.core.loop",
    "Plan": "prefloop.core.loop",
    "train": "prefloop.core.loop",
    "encode": "prefloop.policies.own_loop",
    "log_probs": "prefloop.policies.own_loop",
    "mismatched_kl": "prefloop.policies.own_loop",
}


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that `prefloop --help` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'prefloop' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Public names, for tab completion and `help`."""
    return sorted(__all__)
