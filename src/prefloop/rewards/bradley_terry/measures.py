"""What a reward model's card says beside held-out accuracy: traps of length, best of n, the human ceiling, a policy.

Imports no torch, so that reports can use it. Every number has an interval over questions and a line of what it means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefloop.analysis.statistics import Clusters, Interval, bootstrap, difference, mean, proportion
from prefloop.rewards.bradley_terry.card import RESAMPLES, wins

Array = NDArray[np.float64]
TIES = np.array([0.30, 0.30, 0.20, 0.20, 0.01])  # weights of RewardBench 2's score of its subset Ties
ALIKE = 1e-5  # scores that differ by less, relative to their size, differ by rounding


@dataclass(frozen=True)
class Measure:
    key: str  # in card.json
    name: str
    value: Interval
    meaning: str


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    measures: tuple[Measure, ...]


def traps(
    margin: ArrayLike, longer: ArrayLike, keys: Clusters, *, name: str, seed: int = 0, n: int = RESAMPLES
) -> Section:
    """Accuracy by whether the worse answer is the longer one (LLMBar, Zeng et al. 2024).

    Args:
        margin, longer: [N], score and tokens of the winner minus those of the loser.
        keys: the question of each pair.
        name: of the pairs.
    """
    right, ahead = wins(margin), np.asarray(longer, dtype=np.float64)
    parts = {"trap": ahead < 0, "no_trap": ahead > 0}
    words = {
        "trap": ("worse answer is longer", "a trap for a model that likes length; chance is 0.5"),
        "no_trap": ("better answer is longer", "no trap; far above the row before it, length is rewarded"),
    }
    found = [
        Measure("accuracy", "all pairs", proportion(right, clusters=keys, seed=seed, n=n), "chance is 0.5"),
        Measure(
            "longer",
            "“pick the longer”",
            proportion(wins(ahead), clusters=keys, seed=seed, n=n),
            "the same without a model; far below 0.5 the pairs are traps",
        ),
    ]
    for key, part in parts.items():
        if part.any():
            own = [k for k, inside in zip(keys, part, strict=True) if inside]
            title, meaning = words[key]
            shown = f"{title} ({int(part.sum()):,})"
            found.append(Measure(key, shown, proportion(right[part], clusters=own, seed=seed, n=n), meaning))
    return Section(f"traps {name}", f"Traps of length: {name} ({len(right):,} pairs)", tuple(found))


@dataclass(frozen=True)
class Ranked:
    """Scores of the answers to one prompt, and which of them are right."""

    score: Sequence[float]
    right: Sequence[bool]  # at least one, and not all
    key: str
    tag: str = ""  # `ref:N` or `tied:N` in RewardBench 2's subset Ties


def top_credit(one: Ranked) -> float:
    """1 if the only right answer alone has the highest score, 1/m if m answers share it, otherwise 0."""
    score, right = np.asarray(one.score), np.asarray(one.right)
    top = score == score.max()
    return float(top[right].any() / top.sum())


def best_of(rows: Sequence[Ranked], *, seed: int = 0, n: int = RESAMPLES) -> Section | None:
    """Best-of-n accuracy and the scoring of ties, as RewardBench 2 (Malik et al. 2025); None without such rows.

    Rows with one right answer of three or more count for the first, rows with several right ones for the second.
    """
    tagged = [one for one in rows if one.tag.startswith(("ref:", "tied:"))]
    single = [one for one in rows if one.tag[:4] not in ("ref:", "tied") and sum(one.right) == 1 and len(one.right) > 2]
    several = [one for one in rows if sum(one.right) > 1 and not all(one.right)]
    found: list[Measure] = []
    if single:
        chance = sum(1 / len(one.score) for one in single) / len(single)
        sizes = sorted({len(one.score) for one in single})
        of = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        value = proportion([top_credit(one) for one in single], clusters=[o.key for o in single], seed=seed, n=n)
        meaning = f"share whose one right answer has the highest score; ties share; chance is {chance:.3f}"
        found.append(Measure("best_of", f"best of {of} ({len(single):,} prompts)", value, meaning))
    if several:
        found += _several(several, seed, n)
    pairs = _paired(tagged)
    if pairs:
        found += _ties(pairs, seed, n)
    return Section("best_of", "Best of n, with ties", tuple(found)) if found else None


def gaps(one: Ranked) -> tuple[float, float]:
    """Spread among the right answers; and the worst right one's lead over the best wrong one."""
    score, right = np.asarray(one.score, dtype=np.float64), np.asarray(one.right)
    good, bad = score[right], score[~right]
    return float(good.max() - good.min()), float(good.min() - bad.max())


def _several(rows: Sequence[Ranked], seed: int, n: int) -> list[Measure]:
    keys, both = [one.key for one in rows], [gaps(one) for one in rows]
    above = [float(lead > 0) for _, lead in both]
    close = [float(lead > spread) for spread, lead in both]
    size = f"({len(rows):,} prompts)"
    return [
        Measure(
            "ties_accuracy",
            f"several right {size}",
            proportion(above, clusters=keys, seed=seed, n=n),
            "share whose right answers all score above all wrong ones",
        ),
        Measure(
            "ties_preferred",
            "right ones are close",
            proportion(close, clusters=keys, seed=seed, n=n),
            "share whose lead of right over wrong exceeds the spread among the right",
        ),
    ]


def _paired(rows: Sequence[Ranked]) -> list[tuple[Ranked, Ranked]]:
    """The tied and the reference prompt of each number that has both."""
    known: Mapping[str, Ranked] = {one.tag: one for one in rows}
    numbers = [one.tag.partition(":")[2] for one in rows if one.tag.startswith("tied:") and sum(one.right) > 1]
    return [(known[f"tied:{i}"], known[f"ref:{i}"]) for i in numbers if f"ref:{i}" in known]


def _ties(pairs: Sequence[tuple[Ranked, Ranked]], seed: int, n: int) -> list[Measure]:
    """RewardBench 2's score of its subset Ties: 0.3 tied + 0.3 ref + 0.2 preferred + 0.2 hard + 0.01 margin."""
    rows = []
    for tied, ref in pairs:
        (spread, lead), (_, alone) = gaps(tied), gaps(ref)
        least = min(lead, alone)
        with np.errstate(divide="ignore", invalid="ignore"):
            margin = float(np.nan_to_num(np.tanh(np.float64(least) / spread - 1), nan=0.0))
        rows.append([lead > 0, alone > 0, lead > spread, least > spread, margin])
    keys = [tied.key for tied, _ in pairs]
    table = np.asarray(rows, dtype=np.float64)
    value = bootstrap(table, lambda x: float(x.mean(0) @ TIES), clusters=keys, seed=seed, n=n)
    meaning = "RewardBench 2's score of Ties: right above wrong, by more than right ones differ; at most 1.01"
    return [Measure("ties_score", f"Ties ({len(pairs):,} pairs of prompts)", value, meaning)]


def ceiling(
    votes: Sequence[Sequence[float]],
    margin: ArrayLike,
    longer: ArrayLike,
    keys: Clusters,
    *,
    seed: int = 0,
    n: int = RESAMPLES,
) -> Section | None:
    """One annotator, the model and the longer answer against the majority of the other annotators, on the same cases.

    A case is a pair and one of its annotators whom a majority of the others, without ties, stands against; a tie of the
    one that is judged counts ½. None without a case.

    Args:
        votes: for each pair, 1 for the first answer, 0 for the second, ½ for a tie, by each of three or more.
        margin, longer: [N], score and tokens of the first answer minus those of the second.
        keys: the question of each pair.
    """
    cases = [(p, vote, by) for p, own in enumerate(votes) for vote, by in _left_out(own)]
    if not cases:
        return None
    place = [p for p, _, _ in cases]
    said, first = (np.array([case[i] for case in cases]) for i in (1, 2))
    model, length = (_agreement(wins(x)[place], first) for x in (margin, longer))
    human, own = _agreement(said, first), [keys[p] for p in place]

    def share(x: Array) -> Interval:
        return proportion(x, clusters=own, seed=seed, n=n)

    lead = difference(model - human, clusters=own, seed=seed, n=n)
    title = f"Human ceiling ({len({*place}):,} pairs, {len(cases):,} cases)"
    against = "agreement with the majority of the other annotators"
    return Section(
        "ceiling",
        title,
        (
            Measure("human", "one annotator", share(human), f"{against}: what a model can hope for"),
            Measure("model", "reward model", share(model), "the same agreement of the model, on the same cases"),
            Measure("longer", "“pick the longer”", share(length), "the same without a model"),
            Measure("lead", "model minus annotator", lead, "below 0 the model is short of one human"),
        ),
    )


def _left_out(votes: Sequence[float]) -> list[tuple[float, float]]:
    """Each vote with what more than half of the others say, where they do."""
    found = []
    for i, vote in enumerate(votes):
        others = [*votes[:i], *votes[i + 1 :]]
        found += [(vote, by) for by in (1.0, 0.0) if len(others) > 1 and others.count(by) > len(others) / 2]
    return found


def _agreement(said: ArrayLike, first: Array) -> Array:
    said = np.asarray(said, dtype=np.float64)
    return np.asarray(np.where(first == 1, said, 1 - said), dtype=np.float64)


def under_policy(scores: Sequence[Sequence[float]], *, seed: int = 0, n: int = RESAMPLES) -> Section:
    """Spread of the reward over a policy's own answers: what a policy can learn from (Razin et al. 2025).

    Args:
        scores: per prompt, the scores of two or more answers.
    """
    table = np.asarray(scores, dtype=np.float64)
    within, level = table.std(axis=1, ddof=1), table.mean(axis=1)
    alike = np.ptp(table, axis=1) <= ALIKE * (1 + np.abs(table).max(axis=1))
    title = f"Under the policy ({len(table):,} prompts, {table.shape[1]} answers each)"
    across = bootstrap(level, lambda x: float(x.std(ddof=1)), seed=seed, n=n)
    return Section(
        "policy",
        title,
        (
            Measure(
                "within",
                "spread within a prompt",
                bootstrap(within, mean, seed=seed, n=n),
                "standard deviation over answers to one prompt, mean over prompts: the signal",
            ),
            Measure("across", "spread across prompts", across, "standard deviation of the prompts' means: no signal"),
            Measure(
                "alike",
                "answers all alike",
                proportion(alike.astype(np.float64), seed=seed, n=n),
                "share of prompts whose answers have the same score: nothing is learned there",
            ),
        ),
    )
