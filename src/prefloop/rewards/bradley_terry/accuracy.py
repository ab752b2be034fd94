"""Accuracy of a reward model on held-out preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from prefloop.analysis.preference import wins
from prefloop.analysis.statistics import Interval, bootstrap, proportion
from prefloop.data.records import Group
from prefloop.rewards.bradley_terry.encoding import Comparison
from prefloop.rewards.bradley_terry.ensemble import RewardModel


@dataclass(frozen=True)
class RewardAccuracy:
    """Accuracy of a reward model on given preferences; printed with every result that uses the model."""

    accuracy: Interval  # share of pairs whose winner has the higher score; ties count ½
    longer: Interval  # the same of picking the longer response
    margin: Interval  # score of the winner minus that of the loser
    pairs: int
    questions: int

    def __str__(self) -> str:
        size = f"{self.pairs} held-out pairs, {self.questions} questions"
        return f"accuracy {self.accuracy} on {size}; pick the longer {self.longer}"

    def metrics(self) -> dict[str, int | float]:
        """Flat numbers, for the model's facts and for manifests."""
        numbers: dict[str, int | float] = {"held_out_pairs": self.pairs, "held_out_questions": self.questions}
        for name in ("accuracy", "longer", "margin"):
            x: Interval = getattr(self, name)
            numbers |= {f"held_out_{name}": x.value, f"held_out_{name}_low": x.low, f"held_out_{name}_high": x.high}
        return numbers


def reward_accuracy(model: RewardModel, groups: Sequence[Group], *, seed: int = 0, n: int = 2000) -> RewardAccuracy:
    """Accuracy of a reward model on held-out preferences, with intervals clustered by question.

    Args:
        groups: groups whose questions the model was not fitted on.
        seed: seed of the bootstrap.
        n: number of resamples.

    Raises:
        DataError: the groups contain no preference.
    """
    return accuracy_of(model.compare(groups), seed=seed, n=n)


def accuracy_of(seen: Comparison, *, seed: int = 0, n: int = 2000) -> RewardAccuracy:
    """The same from given margins."""
    accuracy, longer = (
        proportion(wins(torch.stack([x, torch.zeros_like(x)], -1)).numpy(), clusters=seen.keys, seed=seed, n=n)
        for x in (seen.margin, seen.longer)
    )
    margin = bootstrap(seen.margin.double().numpy(), clusters=seen.keys, seed=seed, n=n)
    return RewardAccuracy(accuracy, longer, margin, pairs=len(seen.keys), questions=accuracy.units)
