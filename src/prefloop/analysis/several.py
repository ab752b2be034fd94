"""Several answers to each prompt: how high the best of them scores, and how different they are. Imports no torch.

A policy that is better on average can be worse at its best: it gives up answers that only some of its tries found.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prefloop.analysis.geometry import best_of_each
from prefloop.analysis.numbers import compact, plus_minus
from prefloop.analysis.statistics import Mean, mean_se

Array: TypeAlias = NDArray[np.float64]
Answers = Sequence[Sequence[Hashable]]  # to one prompt, each its tokens

# ---- how different ---------------------------------------------------------------------------------------------------


def distinct(answers: Answers, n: int = 2) -> float:
    """Different n-grams over all n-grams of some answers (Li et al. 2016, arXiv:1510.03055); nan if they have none.

    It falls with the number of answers and with their length: compare equal numbers.
    """
    grams = [tuple(tokens[i : i + n]) for tokens in answers for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def overlap(answers: Answers) -> float:
    """Share of tokens that two answers have in common, 2|a ∩ b|/(|a| + |b|) of their multisets, mean over all pairs.

    Unbiased for two independent answers, whatever their number; 1 for two empty ones. nan for fewer than two answers.
    """
    bags = [(Counter(tokens), len(tokens)) for tokens in answers]
    shared = [2 * (a & b).total() / (n + m) if n + m else 1.0 for (a, n), (b, m) in combinations(bags, 2)]
    return sum(shared) / len(shared) if shared else math.nan


# ---- how high --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Several:
    """Rewards of n answers to each of P held-out prompts, before and after training.

    Args:
        reward: gold, or reward for the one that is trained on.
        before, after: [P, n].
        questions: the question of each prompt; prompts with the same question are dependent.
    """

    reward: str
    before: Array
    after: Array
    questions: Sequence[Hashable]

    @property
    def sizes(self) -> list[int]:
        """1, 2, 4, … and n."""
        n = self.before.shape[1]
        return [*(2**i for i in range(n.bit_length()) if 2**i < n), n]

    @property
    def binary(self) -> bool:
        return bool(np.isin(self.before, (0, 1)).all() and np.isin(self.after, (0, 1)).all())

    def of(self, size: int, solved: float | None = None) -> BestOf:
        """The best of k answers, before and after; the change is of the same prompts.

        E[max of k] by the mean over all subsets of k answers (`geometry.best_of`), unbiased. Given a reward from which
        an answer solves its prompt, or of rewards that are 0 or 1, that is pass@k = 1 − C(n − c, k)/C(n, k), c of n
        answers solving it (Chen et al. 2021, arXiv:2107.03374, eq. 1). Standard errors are over questions.
        """
        both = [x if solved is None else (x >= solved).astype(float) for x in (self.before, self.after)]
        before, after = (best_of_each(x, size) for x in both)
        return BestOf(size, *(mean_se(x, clusters=self.questions) for x in (before, after, after - before)))


@dataclass(frozen=True)
class BestOf:
    """The expected best of k answers to a prompt, or the chance that one of k solves it."""

    size: int
    before: Mean
    after: Mean
    change: Mean

    @property
    def z(self) -> float:
        """The change in standard errors; nan if it has none."""
        value, se = self.change.value, self.change.se
        if se > 0 or math.isnan(se):
            return value / se
        return math.copysign(math.inf, value) if value else 0.0

    def __str__(self) -> str:
        values = (plus_minus(x.value, x.se, sign=x is self.change) for x in (self.before, self.after, self.change))
        return "{} → {} ({})".format(*values)


# ---- in words --------------------------------------------------------------------------------------------------------


def record(seen: Several, solved: float | None = None) -> dict[str, Any]:
    """The curve as a JSON value; pass@k if rewards are 0 or 1, or a threshold is given."""
    level = 1.0 if solved is None and seen.binary else solved
    return {
        "reward": seen.reward,
        "solved_from": level,
        "prompts": len(seen.before),
        "answers": seen.before.shape[1],
        "curve": [
            {"k": row.size}
            | {
                f"{name}{end}": None if math.isnan(x) else x
                for name, mean in (("before", row.before), ("after", row.after), ("change", row.change))
                for end, x in (("", mean.value), ("_se", mean.se))
            }
            for row in (seen.of(size, level) for size in seen.sizes)
        ],
    }


def heading(found: Mapping[str, Any]) -> str:
    """What the rows of a record are."""
    level, reward = found["solved_from"], "gold reward" if found["reward"] == "gold" else "training reward"
    what = (
        f"Highest {reward} among k answers"
        if level is None
        else f"pass@k, the chance that one of k answers has a {reward} of at least {compact(level)}"
    )
    return f"{what}: mean over {found['prompts']} held-out prompts with {found['answers']} answers each"


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """k, before, after and change of each row of a record."""
    names = ("before", "after", "change")
    return [
        [str(row["k"]), *(plus_minus(row[name], row[f"{name}_se"], sign=name == "change") for name in names)]
        for row in found["curve"]
    ]
