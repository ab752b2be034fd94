"""What is known of a reward model on held-out preferences: accuracy, calibration, margins, length, gold.

Imports no torch, so that reports can use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import rankdata

from prefloop.analysis.statistics import Clusters, Interval, bootstrap

Array = NDArray[np.float64]
BINS, BIN_PAIRS = 10, 20  # most bins of pairs, and pairs that a bin has at least
BARS = 20  # most bars of the histogram
RESAMPLES = 2000  # as everywhere: the same accuracy has the same interval wherever it is printed


@dataclass(frozen=True)
class Bin:
    """Pairs with about the same gap between their two scores."""

    low: float  # smallest |s_w − s_l|
    high: float
    gap: float  # mean of it
    predicted: float  # mean σ(|s_w − s_l|): how often the higher score should win
    accuracy: Interval  # how often it did
    pairs: int


@dataclass(frozen=True)
class Histogram:
    edges: tuple[float, ...]  # one more than counts
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation with the score; nan where one of the two is constant."""

    overall: Interval  # over all responses
    within: Interval  # of deviations from the mean of the responses to the same prompt


@dataclass(frozen=True)
class Card:
    """Every interval is a 95 % bootstrap interval over questions; ties count ½."""

    pairs: int
    questions: int
    responses: int
    accuracy: Interval  # share of pairs whose winner has the higher score
    longer: Interval  # the same of picking the longer: what needs no model
    nll: Interval  # mean −log σ(s_w − s_l), nats; log 2 is chance
    margin: Interval  # mean s_w − s_l
    spread: float  # mean standard deviation of the scores inside a prompt
    calibration_error: float  # mean |predicted − observed| over bins of equal size (ECE)
    bins: tuple[Bin, ...]
    histogram: Histogram  # of s_w − s_l
    length: Correlation  # with tokens
    gold: Correlation | None  # with a reward that is known


def reward_card(
    margin: ArrayLike,
    longer: ArrayLike,
    keys: Clusters,
    *,
    score: ArrayLike,
    length: ArrayLike,
    group: ArrayLike,
    response_keys: Clusters,
    gold: ArrayLike | None = None,
    seed: int = 0,
    n: int = RESAMPLES,
) -> Card:
    """The card of a model from its scores on pairs and on all responses.

    Args:
        margin: [N], score of the winner less that of the loser.
        longer: [N], tokens of the winner less tokens of the loser.
        keys: the question of each pair; whole questions are resampled.
        score, length, group: [M], of each response its score, its tokens and the number of its prompt.
        response_keys: the question of each response.
        gold: [M], a known reward of each response.
        seed: of the bootstrap.
        n: resamples.

    Raises:
        ValueError: no pair, or lengths that differ.
    """
    m = np.asarray(margin, dtype=np.float64)
    columns = {"accuracy": wins(m), "longer": wins(np.asarray(longer)), "nll": np.logaddexp(0.0, -m), "margin": m}
    means = {name: bootstrap(x, clusters=keys, seed=seed, n=n) for name, x in columns.items()}
    bins = by_gap(m, keys, seed=seed, n=n)
    s, tokens, prompt = (np.asarray(x, dtype=np.float64) for x in (score, length, group))
    known = None if gold is None else correlation(s, gold, prompt, response_keys, seed=seed, n=n)
    return Card(
        pairs=len(m),
        questions=means["accuracy"].units,
        responses=len(s),
        **means,
        spread=_spread(s, prompt),
        calibration_error=sum(b.pairs * abs(b.predicted - b.accuracy.value) for b in bins) / len(m),
        bins=bins,
        histogram=histogram(m),
        length=correlation(s, tokens, prompt, response_keys, seed=seed, n=n),
        gold=known,
    )


def wins(difference: ArrayLike) -> Array:
    """1 where it is above 0, ½ where it is 0, else 0."""
    return (np.sign(np.asarray(difference, dtype=np.float64)) + 1) / 2


def by_gap(margin: ArrayLike, keys: Clusters, *, seed: int = 0, n: int = RESAMPLES) -> tuple[Bin, ...]:
    """Pairs in bins of about equal size by |s_w − s_l|: what the model predicts there, and how often it is right."""
    m = np.asarray(margin, dtype=np.float64)
    order = np.argsort(np.abs(m), kind="stable")
    parts = np.array_split(order, max(1, min(BINS, len(m) // BIN_PAIRS)))
    return tuple(_bin(m[part], [keys[i] for i in part], seed, n) for part in parts)


def _bin(m: Array, keys: Sequence[Any], seed: int, n: int) -> Bin:
    gap = np.abs(m)
    right = bootstrap(wins(m), clusters=keys, seed=seed, n=n)
    ends = float(gap.min()), float(gap.max()), float(gap.mean())
    return Bin(*ends, predicted=float(expit(gap).mean()), accuracy=right, pairs=len(m))


def histogram(x: ArrayLike, most: int = BARS) -> Histogram:
    """Counts between round edges, 0 among them or beyond the ends."""
    values = np.asarray(x, dtype=np.float64)
    width = _round_width(max(float(values.max() - values.min()), 1e-9) / (most - 2))
    first, last = math.floor(values.min() / width), math.floor(values.max() / width) + 1
    edges = np.arange(first, last + 1) * width
    counts, _ = np.histogram(values, edges)
    return Histogram(tuple(float(e) for e in edges), tuple(int(c) for c in counts))


def _round_width(least: float) -> float:
    """1, 2 or 5 times a power of ten, the first that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def correlation(
    score: ArrayLike, other: ArrayLike, group: ArrayLike, keys: Clusters, *, seed: int = 0, n: int = RESAMPLES
) -> Correlation:
    """Rank correlation of the score with another number, over all responses and inside prompts.

    Ranks are taken once, among all responses, and resampled.

    Args:
        score, other: [M].
        group: [M], the number of the prompt.
        keys: the question of each response; whole questions are resampled.
    """
    both = np.stack([np.asarray(score, dtype=np.float64), np.asarray(other, dtype=np.float64)], -1)
    apart = both - _means(both, np.asarray(group))
    ranks = [rankdata(np.round(x, 9), axis=0) for x in (both, apart)]  # equal deviations may differ in their last bits
    overall, within = (bootstrap(x, _pearson, clusters=keys, seed=seed, n=n) for x in ranks)
    return Correlation(overall, within)


def _means(x: Array, group: NDArray[Any]) -> Array:
    """Of each row the mean over the rows of its group."""
    _, place = np.unique(group, return_inverse=True)
    size = np.bincount(place)
    return np.stack([np.bincount(place, weights=column) / size for column in x.T], -1)[place]


def _pearson(x: Array) -> float:
    """Pearson's correlation of two columns, which is Spearman's (1904) of ranks; nan where one is constant."""
    apart = x - x.mean(0)
    product, first, second = (apart[:, i] @ apart[:, j] for i, j in ((0, 1), (0, 0), (1, 1)))
    return float(product) / math.sqrt(first * second) if first * second > 0 else math.nan


def _spread(score: Array, group: Array) -> float:
    """Mean over prompts with two responses and more of the standard deviation of their scores."""
    found = [score[group == g] for g in np.unique(group)]
    several = [float(x.std(ddof=1)) for x in found if len(x) > 1]
    return sum(several) / len(several) if several else math.nan


def as_record(card: Card) -> dict[str, Any]:
    """The card as JSON has it; null where a number is not defined."""
    return {key: _plain(value) for key, value in asdict(card).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
