"""What a diagnosis reads of a run: curves and a few facts, the same for run folders and the lab. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefloop.analysis.several import Several
from prefloop.core.metric_table import late

Array = NDArray[np.float64]
OUTCOMES = {  # what says whether a run got better, the best first; and how it is called
    "eval/gold": "gold reward",
    "eval/reward": "held-out reward",
    "eval/rewards/accuracies": "held-out accuracy",
    "eval/accuracy/mean_logp": "held-out accuracy by log-prob per token",
    "eval/labels/auc": "separation of held-out labels",
    "eval/loss": "held-out loss",
}
LOWER_IS_BETTER = frozenset({"eval/loss"})
SURE = 2.0  # standard errors beyond which a change counts


@dataclass(frozen=True)
class Curve:
    """The values of one metric in the order of their steps, with standard errors where they are known (else nan)."""

    step: Array
    value: Array
    se: Array

    def __len__(self) -> int:
        return len(self.value)

    @property
    def first(self) -> float:
        return float(self.value[0])

    @property
    def last(self) -> float:
        return float(self.value[-1])

    @property
    def late(self) -> float:
        """Median of the last quarter."""
        return median(late(self.value.tolist()))


def curve(step: ArrayLike, value: ArrayLike, se: ArrayLike | None = None) -> Curve | None:
    """The finite values of a metric; None if there are none."""
    steps, values = np.asarray(step, dtype=np.float64), np.asarray(value, dtype=np.float64)
    errors = np.full(values.shape, np.nan) if se is None else np.asarray(se, dtype=np.float64)
    there = np.isfinite(values)
    return Curve(steps[there], values[there], errors[there]) if there.any() else None


@dataclass(frozen=True)
class Change:
    """A metric before and after training; the errors of both ends count as independent."""

    key: str
    before: float
    after: float
    se: float  # nan: unknown

    @property
    def value(self) -> float:
        return self.after - self.before

    @property
    def gain(self) -> float:
        """The change, positive if the run got better."""
        return -self.value if self.key in LOWER_IS_BETTER else self.value

    @property
    def z(self) -> float:
        """The gain in standard errors; nan if they are unknown."""
        if self.se > 0:
            return self.gain / self.se
        return math.nan if math.isnan(self.se) else math.copysign(math.inf, self.gain) if self.gain else 0.0

    @property
    def rose(self) -> bool:
        """Whether the run got better by more than noise."""
        return self.z > SURE


@dataclass(frozen=True)
class Answer:
    """A sampled answer of an evaluation."""

    step: int
    prompt: str
    text: str  # empty where only numbers are known
    tokens: int
    score: float | None = None


@dataclass(frozen=True)
class Evidence:
    """One run.

    Args:
        curves: training and evaluation metrics by their keys in `core.metric_table`.
        beta: scale of the implicit reward; None if the method has none (then metrics have the scale 1).
        pairs: whether the method compares pairs.
        reference: whether it reads the reference.
        learned_reward: whether the reward that is trained on is a learned one.
        reward: its name.
        limit: longest response that the policy may write, in tokens.
        margins: implicit reward margins of held-out pairs after training, in nats.
        answers: sampled answers of evaluations.
        several: rewards of several answers to each held-out prompt; None if not known.
        overlap: share of the held-out questions that are trained on too; None if not known.
        unended: share of the training responses without their end; None if not known.
        notes: why something is not known.
    """

    name: str
    method: str
    curves: Mapping[str, Curve]
    beta: float | None = None
    pairs: bool = False
    reference: bool = False
    learned_reward: bool = False
    reward: str = ""
    limit: int | None = None
    margins: Sequence[float] = ()
    answers: Sequence[Answer] = ()
    several: Several | None = None
    overlap: float | None = None
    unended: float | None = None
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What implicit rewards in nats are multiplied by in the metrics."""
        return self.beta if self.beta else 1.0

    def get(self, *keys: str) -> Curve | None:
        """The first of these metrics that the run has."""
        return next((self.curves[key] for key in keys if key in self.curves), None)

    def change(self, key: str) -> Change | None:
        """A metric at the first and at the last evaluation; None if it was measured only once."""
        known = self.curves.get(key)
        if known is None or len(known) < 2:
            return None
        return Change(key, known.first, known.last, math.hypot(known.se[0], known.se[-1]))

    @property
    def outcome(self) -> Change | None:
        """What says best whether the run got better. A learned reward says nothing where it is trained on."""
        keys = [key for key in OUTCOMES if not (key == "eval/reward" and self.learned_reward)]
        return next((found for key in keys if (found := self.change(key)) is not None), None)

    @property
    def tokens(self) -> float | None:
        """Tokens of a typical response."""
        known = self.get("completions/mean_length", "eval/length")
        return None if known is None else known.late
