"""Statistics and checks of a preference dataset before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import quantiles

from prefloop.data.records import Group, system


@dataclass(frozen=True)
class Lengths:
    """Quantiles of the lengths of texts."""

    min: int
    median: float
    p95: float
    max: int


@dataclass(frozen=True)
class Report:
    """Counts and shares of a set of groups; a preference is an ordered pair of responses with different scores."""

    groups: int
    keys: int  # distinct split keys (questions)
    prompts: int  # distinct
    systems: int  # rows whose question another row asks under another system message
    responses: int
    group_sizes: dict[int, int]  # responses -> groups
    prompt_length: Lengths  # in characters
    response_length: Lengths | None
    preferences: int
    longer_wins: float | None  # share of preferences in which the longer response is preferred; equal lengths count ½
    positive_labels: float | None  # share of single responses with a score above 0
    ties: int  # groups of two or more whose scores are all equal
    duplicates: int  # groups that repeat an earlier one: same prompt and responses in any order, same scores
    contradictions: int  # preferences that another row contradicts


def check(groups: Sequence[Group]) -> Report:
    """Counts, lengths in characters, length bias, ties, duplicates and contradictions.

    Raises:
        ValueError: there are no groups.
    """
    if not groups:
        raise ValueError("there are no groups to check")
    preferences = [pair for group in groups for pair in _preferences(group)]
    labels = [float(g.scores[0] > 0) for g in groups if g.scores is not None and len(g.scores) == 1]
    responses = [len(r) for g in groups for r in g.responses]
    return Report(
        groups=len(groups),
        keys=len({g.key for g in groups}),
        prompts=len({g.prompt for g in groups}),
        systems=_systems(groups),
        responses=len(responses),
        group_sizes=dict(sorted(Counter(len(g.responses) for g in groups).items())),
        prompt_length=lengths([len(g.text) for g in groups]),
        response_length=lengths(responses) if responses else None,
        preferences=len(preferences),
        longer_wins=_mean([_longer(winner, loser) for _, winner, loser in preferences]),
        positive_labels=_mean(labels),
        ties=sum(g.scores is not None and len(g.scores) > 1 and len(set(g.scores)) == 1 for g in groups),
        duplicates=len(groups) - len({_identity(g) for g in groups}),
        contradictions=_contradictions(preferences),
    )


def _systems(groups: Sequence[Group]) -> int:
    """Rows whose question another row asks under another system message."""
    seen: dict[str, set[str]] = {}
    for group in groups:
        seen.setdefault(group.key, set()).add(system(group))
    return sum(len(seen[group.key]) > 1 for group in groups)


def _preferences(group: Group) -> Iterator[tuple[object, str, str]]:
    rated = list(zip(group.responses, group.scores or (), strict=False))
    return ((group.prompt, a, b) for a, x in rated for b, y in rated if x > y)


def _longer(winner: str, loser: str) -> float:
    return 0.5 if len(winner) == len(loser) else float(len(winner) > len(loser))


def _identity(group: Group) -> object:
    scores = group.scores or (0.0,) * len(group.responses)
    return group.prompt, tuple(sorted(zip(group.responses, scores, strict=True)))


def _contradictions(preferences: Sequence[tuple[object, str, str]]) -> int:
    """Distinct unordered pairs that occur with both preferences."""
    stated = set(preferences)
    return sum((prompt, loser, winner) in stated for prompt, winner, loser in stated) // 2


def _mean(x: Sequence[float]) -> float | None:
    return sum(x) / len(x) if x else None


def lengths(x: Sequence[int]) -> Lengths:
    """The quantiles of at least one length."""
    cuts = quantiles(x, n=20, method="inclusive") if len(x) > 1 else [float(x[0])] * 19
    return Lengths(min(x), cuts[9], cuts[18], max(x))
