"""What the findings mean, written after the runs: no part of the rules, and no number that is not in a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """How the findings of a study are read; empty where there is no result yet.

    Args:
        why: the reason, or what it depends on.
        cost: in labels, samples or time.
        do: advice.
    """

    why: str = ""
    cost: str = ""
    do: str = ""


READINGS = {
    "on-policy": Reading(),
    "staleness": Reading(),
    "reuse": Reading(),
    "negative": Reading(),
    "complement": Reading(),
    "labels": Reading(),
    "displacement": Reading(),
    "min-mode-skew": Reading(),
    "overoptimisation": Reading(),
    "published-defects": Reading(),
    "length-real": Reading(),
}
