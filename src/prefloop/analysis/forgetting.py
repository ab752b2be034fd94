"""Whether a run lost what it was not trained on, by the log-prob of a probe set. Imports no torch."""

from __future__ import annotations

import math
from typing import Any

from prefloop.analysis.evidence import SURE, Evidence
from prefloop.analysis.numbers import compact, plus_minus
from prefloop.analysis.signs import Reading

PROBE = "eval/probe"  # of a kind of response: eval/probe/KIND


def by_kind(run: Evidence) -> list[dict[str, Any]]:
    """log π − log π_ref per token at the last evaluation, over the whole probe set and of each kind, as JSON values."""
    found = [
        (key.removeprefix(PROBE).lstrip("/"), one) for key, one in run.curves.items() if key == PROBE or _kind(key)
    ]
    return [
        {"kind": kind or "all", "change": one.last, "change_se": None if math.isnan(one.se[-1]) else float(one.se[-1])}
        for kind, one in found
        if len(one) > 1
    ]


def _kind(key: str) -> str:
    """The kind of response that a metric is of; empty if it is none."""
    return key.removeprefix(f"{PROBE}/") if key.startswith(f"{PROBE}/") else ""


def forgetting(run: Evidence) -> Reading | None:
    """Fall of log π per token below the reference on the probe set, less two standard errors over prompts."""
    seen = run.get(PROBE)
    if seen is None or len(seen) < 2:
        return None
    fall, se = -seen.last, 0.0 if math.isnan(seen.se[-1]) else float(seen.se[-1])
    said = f"log π − log π_ref on the probe set is {plus_minus(-fall, se, sign=True)} nats per token"
    kinds = {_kind(key): curve.last for key, curve in run.curves.items() if _kind(key)}
    if kinds:
        worst = min(kinds, key=lambda kind: kinds[kind])
        said += f", lowest of {worst}: {compact(kinds[worst])}"
    return Reading(fall - SURE * se, f"{said}; its perplexity is {compact(math.exp(fall))} times that of the reference")
