"""The card of a reward model on held-out preferences: accuracy, calibration, margins, length, gold.

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

from prefloop.analysis.statistics import Clusters, Interval, bootstrap, difference, proportion
from prefloop.core.files import plain

Array = NDArray[np.float64]
BINS, BIN_PAIRS = 10, 20  # maximum number of bins, and minimum number of pairs per bin
BARS = 20  # maximum number of bars in the histogram
RESAMPLES = 2000  # as everywhere, so that an accuracy has the same interval wherever it is printed


@dataclass(frozen=True)
class Bin:
    """Pairs with similar gaps between their two scores."""

    low: float  # smallest |s_w − s_l|
    high: float
    gap: float  # mean |s_w − s_l|
    predicted: float  # mean σ(|s_w − s_l|): how often the higher score should win
    accuracy: Interval  # how often it did
    pairs: int


@dataclass(frozen=True)
class Histogram:
    edges: tuple[float, ...]  # one more than counts
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation with the score; nan if either is constant."""

    overall: Interval  # over all responses
    within: Interval  # of deviations from the mean over responses to the same prompt, for prompts with several


@dataclass(frozen=True)
class Card:
    """Every interval is a 95 % bootstrap interval over questions; ties count ½."""

    pairs: int
    questions: int
    responses: int
    accuracy: Interval  # share of pairs whose winner has the higher score
    longer: Interval  # the same of picking the longer response, a baseline without a model
    lead: Interval  # accuracy minus that of picking the longer, on the same pairs
    nll: Interval  # mean −log σ(s_w − s_l), nats; log 2 is chance
    margin: Interval  # mean s_w − s_l
    spread: Interval  # mean standard deviation of the scores within a prompt
    calibration_error: float  # mean |predicted − observed| over bins of equal size (ECE)
    chance_error: Interval  # the same for a calibrated model with these gaps: mean and central 95 % of simulations
    bins: tuple[Bin, ...]
    histogram: Histogram  # of s_w − s_l
    length: Correlation  # with tokens
    gold: Correlation | None  # with a known reward


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
        margin: [N], score of the winner minus that of the loser.
        longer: [N], tokens of the winner minus tokens of the loser.
        keys: the question of each pair; whole questions are resampled.
        score, length, group: [M], score, number of tokens and prompt number of each response.
        response_keys: the question of each response.
        gold: [M], a known reward of each response.
        seed: seed of the bootstrap.
        n: number of resamples.

    Raises:
        ValueError: no pairs, or different lengths.
    """
    m = np.asarray(margin, dtype=np.float64)
    right, baseline = wins(m), wins(longer)
    shares = {"accuracy": right, "longer": baseline}
    means = {"nll": np.logaddexp(0.0, -m), "margin": m}
    accuracies = {name: proportion(x, clusters=keys, seed=seed, n=n) for name, x in shares.items()}
    bins = by_gap(m, keys, seed=seed, n=n)
    s, tokens, prompt = (np.asarray(x, dtype=np.float64) for x in (score, length, group))
    known = None if gold is None else correlation(s, gold, prompt, response_keys, seed=seed, n=n)
    return Card(
        pairs=len(m),
        questions=accuracies["accuracy"].units,
        responses=len(s),
        **accuracies,
        lead=difference(right - baseline, clusters=keys, seed=seed, n=n),
        **{name: bootstrap(x, clusters=keys, seed=seed, n=n) for name, x in means.items()},
        spread=_spread(s, prompt, response_keys, seed=seed, n=n),
        calibration_error=sum(b.pairs * abs(b.predicted - b.accuracy.value) for b in bins) / len(m),
        chance_error=chance_error(m, seed=seed, n=n),
        bins=bins,
        histogram=histogram(m),
        length=correlation(s, tokens, prompt, response_keys, seed=seed, n=n),
        gold=known,
    )


def wins(difference: ArrayLike) -> Array:
    """1 if above 0, ½ if 0, otherwise 0."""
    return (np.sign(np.asarray(difference, dtype=np.float64)) + 1) / 2


def by_gap(margin: ArrayLike, keys: Clusters, *, seed: int = 0, n: int = RESAMPLES) -> tuple[Bin, ...]:
    """Pairs in bins of about equal size by |s_w − s_l|, with predicted and observed accuracy."""
    m = np.asarray(margin, dtype=np.float64)
    return tuple(_bin(m[part], [keys[i] for i in part], seed, n) for part in _parts(m))


def chance_error(margin: ArrayLike, *, seed: int = 0, n: int = RESAMPLES) -> Interval:
    """Calibration error of the same number of independent pairs if P(right) = σ(|s_w − s_l|) were true.

    Noise does not cancel in a mean of |predicted − observed|, so it is above 0 for any number of pairs.

    Args:
        margin: [N].
        seed, n: seed and number of simulations.
    """
    m = np.asarray(margin, dtype=np.float64)
    parts = _parts(m)
    gap = np.abs(m)[np.concatenate(parts)]
    predicted, starts = expit(gap), np.cumsum([0, *map(len, parts[:-1])])
    rng = np.random.default_rng(seed)

    def drawn() -> float:
        right = wins(np.where(rng.random(len(gap)) < predicted, gap, -gap))
        return float(np.abs(np.add.reduceat(predicted - right, starts)).sum()) / len(gap)

    errors = np.array([drawn() for _ in range(n)])
    low, high = np.quantile(errors, (0.025, 0.975))
    return Interval(float(errors.mean()), float(low), float(high), 0.95, len(m))


def _parts(margin: Array) -> list[NDArray[np.intp]]:
    """Indices of the pairs in each bin, from small gaps to large ones."""
    order = np.argsort(np.abs(margin), kind="stable")
    return np.array_split(order, max(1, min(BINS, len(margin) // BIN_PAIRS)))


def _bin(m: Array, keys: Sequence[Any], seed: int, n: int) -> Bin:
    gap = np.abs(m)
    right = proportion(wins(m), clusters=keys, seed=seed, n=n)
    ends = float(gap.min()), float(gap.max()), float(gap.mean())
    return Bin(*ends, predicted=float(expit(gap).mean()), accuracy=right, pairs=len(m))


def histogram(x: ArrayLike, most: int = BARS) -> Histogram:
    """Counts between round edges; 0 is an edge or lies outside the range."""
    values = np.asarray(x, dtype=np.float64)
    width = _round_width(max(float(values.max() - values.min()), 1e-9) / (most - 2))
    first, last = math.floor(values.min() / width), math.floor(values.max() / width) + 1
    edges = np.arange(first, last + 1) * width
    counts, _ = np.histogram(values, edges)
    return Histogram(tuple(float(e) for e in edges), tuple(int(c) for c in counts))


def _round_width(least: float) -> float:
    """The smallest number of the form 1, 2 or 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def correlation(
    score: ArrayLike, other: ArrayLike, group: ArrayLike, keys: Clusters, *, seed: int = 0, n: int = RESAMPLES
) -> Correlation:
    """Rank correlation of the score with another quantity, over all responses and within prompts that have several.

    Ranks are computed once, among all these responses, and then resampled.

    Args:
        score, other: [M].
        group: [M], the prompt number.
        keys: the question of each response; whole questions are resampled.
    """
    both = np.stack([np.asarray(score, dtype=np.float64), np.asarray(other, dtype=np.float64)], -1)
    _, place = np.unique(np.asarray(group), return_inverse=True)
    several = np.flatnonzero(np.bincount(place)[place] > 1)  # a single response always deviates by 0
    apart = np.round(both - _means(both, place), 9)  # equal deviations may differ by rounding
    overall = bootstrap(rankdata(both, axis=0), _pearson, clusters=keys, seed=seed, n=n)
    if not len(several):
        return Correlation(overall, Interval(math.nan, math.nan, math.nan, overall.level, 0))
    own = [keys[i] for i in several.tolist()]
    return Correlation(overall, bootstrap(rankdata(apart[several], axis=0), _pearson, clusters=own, seed=seed, n=n))


def _means(x: Array, place: NDArray[np.intp]) -> Array:
    """For each row, the mean over the rows of its group."""
    size = np.bincount(place)
    return np.stack([np.bincount(place, weights=column) / size for column in x.T], -1)[place]


def _pearson(x: Array) -> float:
    """Pearson's correlation of two columns, which on ranks is Spearman's (1904); nan if one is constant."""
    apart = x - x.mean(0)
    product, first, second = (apart[:, i] @ apart[:, j] for i, j in ((0, 1), (0, 0), (1, 1)))
    return float(product) / math.sqrt(first * second) if first * second > 0 else math.nan


def _spread(score: Array, group: Array, keys: Clusters, *, seed: int, n: int) -> Interval:
    """Standard deviation of the scores within a prompt, averaged over prompts with two or more responses."""
    places = [np.flatnonzero(group == g) for g in np.unique(group)]
    several = [place for place in places if len(place) > 1]
    if not several:
        return Interval(math.nan, math.nan, math.nan, 0.95, 0)
    own = [keys[int(place[0])] for place in several]
    return bootstrap([float(score[place].std(ddof=1)) for place in several], clusters=own, seed=seed, n=n)


def as_record(card: Card) -> dict[str, Any]:
    """The card as a JSON value; null for undefined numbers."""
    return dict(plain(asdict(card)))
