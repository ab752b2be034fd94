"""Rewards of trainings at the same distance from the reference. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

from prefloop.analysis.compare import LEVEL, Difference, paired

Path: TypeAlias = Sequence[tuple[float, float]]  # (KL, reward) of each evaluation, the one before training first


@dataclass(frozen=True)
class Matched:
    """Two methods at one distance from the reference.

    Args:
        kl: the farthest KL that all trainings of both reached.
        low: the KL from which both were evaluated.
        difference: reward of the first minus that of the second there, by seed.
    """

    kl: float
    low: float
    difference: Difference


def at(path: Path, kl: float) -> float:
    """Reward when a training first reached a KL, between two evaluations in proportion; nan if it never did."""
    for (before, low), (after, high) in pairwise(path):
        if before <= kl <= after:
            return high if after == before else low + (high - low) * (kl - before) / (after - before)
    return math.nan


def overlap(paths: Sequence[Path]) -> tuple[float, float]:
    """From where to where all trainings have evaluations: from the last first one to the nearest farthest one.

    Between the start, which all share, and its first evaluation nothing is known of a training.
    """
    firsts, farthest = [path[1][0] for path in paths], [max(kl for kl, _ in path) for path in paths]
    return max(firsts), min(farthest)


def matched(
    a: Mapping[Any, Path], b: Mapping[Any, Path], *, higher_is_better: bool = True, level: float = LEVEL
) -> Matched | None:
    """a − b at the farthest KL that all trainings of both reached, by seed; None if the curves do not overlap.

    KL is compared where each was evaluated at least once after the start; a training with fewer than two evaluations
    has no curve.
    """
    seeds = [seed for seed in a if seed in b]
    paths = [each[seed] for seed in seeds for each in (a, b)]
    if not seeds or min(map(len, paths)) < 2:
        return None
    low, high = overlap(paths)
    if not low <= high:
        return None
    mine, theirs = ({seed: at(each[seed], high) for seed in seeds} for each in (a, b))
    return Matched(high, low, paired(mine, theirs, unit="seeds", higher_is_better=higher_is_better, level=level))
