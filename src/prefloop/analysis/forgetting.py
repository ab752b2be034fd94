"""Whether a run lost what it was not trained on, by the log-prob of a probe set. Imports no torch."""

from __future__ import annotations

import math

from prefloop.analysis.evidence import SURE, Evidence
from prefloop.analysis.numbers import compact, plus_minus
from prefloop.analysis.signs import Reading

PROBE = "eval/probe"  # of a kind of response: eval/probe/KIND


def forgetting(run: Evidence) -> Reading | None:
    """Fall of log π per token below the reference on the probe set, less two standard errors over prompts."""
    seen = run.get(PROBE)
    if seen is None or len(seen) < 2:
        return None
    fall, se = -seen.last, 0.0 if math.isnan(seen.se[-1]) else float(seen.se[-1])
    said = f"log π − log π_ref on the probe set is {plus_minus(-fall, se, sign=True)} nats per token"
    kinds = {key.removeprefix(f"{PROBE}/"): curve for key, curve in run.curves.items() if key.startswith(f"{PROBE}/")}
    if kinds:
        worst = min(kinds, key=lambda kind: kinds[kind].last)
        said += f", lowest of {worst}: {compact(kinds[worst].last)}"
    return Reading(fall - SURE * se, f"{said}; its perplexity is {compact(math.exp(fall))} times that of the reference")
