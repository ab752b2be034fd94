"""Which values a switch or hyper-parameter may take; one letter means one thing, so its range is known anywhere."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from prefloop.core import kl, weights
from prefloop.core.errors import UserError, nearest

PARTS = ("objective", "weight", "pairs")
POSITIVE = ("beta", "tau", "clip", "responses", "reuse", "horizon", "eps", "mismatch_cap", "cap", "gate", "clip_high")
NOT_NEGATIVE = ("kl", "entropy", "sft", "value_weight", "push", "odds", "keep", "desirable", "undesirable")
SHARES = ("on_policy", "negative", "smoothing", "discount", "lam", "quantile")
FREE = ("gamma", "threshold")
OPTIONAL = ("mismatch_cap", "clip_high", "threshold")
CHOICES = {
    "reduction": ("sequence", "token", "mean", "constant"),
    "kl_in": ("reward", "loss"),
    "kl_estimator": (*kl.LOSSES, "exact"),
    "level": ("token", "sequence"),
    "form": ("log", "unlikelihood"),
    "normalise": ("none", "prompt", "batch"),
    "baseline": weights.BASELINES,
    "scale": ("none", "batch", "prompt"),
}


def check_range(name: str, value: Any) -> None:
    """One letter means one thing, so its range is known wherever it occurs."""
    if name == "critic" and not isinstance(value, bool):
        raise UserError(f"`critic` is true or false, not {value!r}")
    if name in PARTS and not callable(value) and not (value is None and name != "objective"):
        raise UserError(f"`{name}` is a function, not {value!r}")
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise UserError(f"`{name}` cannot be {value!r}", fix=nearest(str(value), CHOICES[name]))
        return
    if name not in POSITIVE + NOT_NEGATIVE + SHARES + FREE or (value is None and name in OPTIONAL):
        return
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise UserError(f"`{name}` must be a number, not {value!r}")
    low, high = (float(value.min()), float(value.max())) if isinstance(value, Tensor) else (value, value)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"`{name}` must be finite, not {value}")
    if name in POSITIVE and low <= 0:
        raise UserError(f"`{name}` must be above 0, not {value}")
    if name in NOT_NEGATIVE and low < 0:
        raise UserError(f"`{name}` must not be below 0, but is {value}")
    if name in SHARES and not 0 <= low <= high <= 1:
        raise UserError(f"`{name}` is a share between 0 and 1, not {value}")
    if name in ("responses", "reuse") and not isinstance(value, int):
        raise UserError(f"`{name}` must be a whole number, not {value}")
