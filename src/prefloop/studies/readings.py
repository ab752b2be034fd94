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
    "complement": Reading(
        why="Not decided here. Offline the order of best-of-N and DPO is the opposite (`labels`), so own samples help"
        " best-of-N more.",
        cost="Ten responses and their order at every prompt, for all of these methods.",
        do="With a reward that ranks many responses, try on-policy best-of-N beside on-policy DPO; without one, DPO.",
    ),
    "labels": Reading(
        why="Likely, not measured: where every response to a prompt scores next to nothing, weights from scores are"
        " flat, while their order still points the way; and DPO on all pairs learns from every response.",
        cost="No label more: the 45 pairs are those of the same ten ranked responses.",
        do="Rank several responses to each prompt and train on all of their pairs.",
    ),
    "displacement": Reading(),
    "min-mode-skew": Reading(),
    "overoptimisation": Reading(),
    "published-defects": Reading(),
    "length-real": Reading(),
}
