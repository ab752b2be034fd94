"""The coverage of intervals by simulation: several seeds answer the same prompts, of which several ask one question.

The difference of seed s on prompt p of question q is seed_s + question_q + prompt_p + seed×question_sq + rest_sp, all
with mean 0; the population is all seeds and all questions. `tools/intervals.py` prints the table of
docs/how-to/compare.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from prefloop.analysis.compare import crossed, difference
from prefloop.analysis.over_runs import improvement, iqm_over_runs
from prefloop.analysis.simulation import NOISE
from prefloop.analysis.statistics import mean, stratified_bootstrap

Array = NDArray[np.float64]
Ends = tuple[float, float]
OURS = "seeds and prompts"


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the parts of a difference."""

    seed: float = 0.0
    question: float = 0.0
    prompt: float = 0.0
    both: float = 0.0
    rest: float = 1.0


SPREADS: Mapping[str, Spread] = {  # by what the difference depends on
    "the seed": Spread(seed=1.0),
    "the question": Spread(seed=0.05, question=1.0, prompt=1.0, both=0.3),
    "both alike": Spread(seed=0.3, question=1.3, prompt=0.5, both=0.3),
    "the seed within a question": Spread(both=1.0),
    "neither": Spread(),
}


def drawn(spread: Spread, seeds: int, questions: int, prompts: int, rng: np.random.Generator, noise: str) -> Array:
    """Differences [seeds, questions × prompts], prompts of one question side by side."""
    draw: Callable[[np.random.Generator, tuple[int, ...]], Array] = NOISE[noise]
    whole = (
        spread.seed * draw(rng, (seeds, 1, 1))
        + spread.question * draw(rng, (1, questions, 1))
        + spread.prompt * draw(rng, (1, questions, prompts))
        + spread.both * draw(rng, (seeds, questions, 1))
        + spread.rest * draw(rng, (seeds, questions, prompts))
    )
    return whole.reshape(seeds, -1)


def intervals(table: Array, prompts: int) -> dict[str, Ends]:
    """Ours, and what others do: whatever leaves out a source of chance is too narrow where that source is large."""
    seeds, columns = table.shape
    key = {p: p // prompts for p in range(columns)}
    zero = {s: dict.fromkeys(range(columns), 0.0) for s in range(seeds)}
    ours = crossed({s: dict(enumerate(map(float, row))) for s, row in enumerate(table)}, zero, clusters=key)
    over_seeds = difference(table.mean(1), unit="seeds")
    by_question = difference(table.mean(0), unit="questions", clusters=list(key.values()))
    z, rows = float(ndtri(0.975)), table.ravel()
    half = z * float(rows.std(ddof=1)) / math.sqrt(rows.size)
    resampled = stratified_bootstrap(table, mean, seed=0, n=200)
    return {
        OURS: (ours.low, ours.high),
        "seeds only": (over_seeds.low, over_seeds.high),
        "questions only": (by_question.low, by_question.high),
        "every answer a unit": (float(rows.mean()) - half, float(rows.mean()) + half),
        "runs × tasks bootstrap": (resampled.low, resampled.high),
    }


def coverage(
    spread: Spread,
    *,
    seeds: int,
    questions: int = 20,
    prompts: int = 4,
    noise: str = "normal",
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Share of repetitions in which each interval holds the true difference, 0."""
    rng = np.random.default_rng(seed)
    held: dict[str, int] = {}
    for _ in range(repeats):
        for name, (low, high) in intervals(drawn(spread, seeds, questions, prompts, rng, noise), prompts).items():
            held[name] = held.get(name, 0) + (low <= 0 <= high)
    return {name: count / repeats for name, count in held.items()}


def coverage_of_iqm(*, seeds: int, noise: str = "normal", repeats: int = 1000, seed: int = 0) -> dict[str, float]:
    """The same of the interquartile mean of one result per seed, with and without widening."""
    rng = np.random.default_rng(seed)
    x = NOISE[noise](rng, (200_000, seeds))
    cut = seeds // 4
    truth = float(np.sort(x, 1)[:, cut : seeds - cut].mean())
    held = np.zeros(2)
    for row in x[:repeats]:
        both = (iqm_over_runs(row, n=500), stratified_bootstrap(row[:, None], seed=0, n=500))
        held += [one.low <= truth <= one.high for one in both]
    return dict(zip(("widened", "bootstrap"), held / repeats, strict=True))


def coverage_of_improvement(
    shift: float, *, seeds: int, repeats: int = 1000, seed: int = 0
) -> tuple[float, dict[str, float]]:
    """P(X > Y) of two normal methods `shift` standard deviations apart, and how often intervals hold it."""
    rng, truth, held = np.random.default_rng(seed), float(ndtr(shift / math.sqrt(2))), np.zeros(2)
    for _ in range(repeats):
        x, y = shift + rng.normal(size=seeds), rng.normal(size=seeds)
        ours, (a, b) = improvement(x, y), (v[rng.integers(seeds, size=(200, seeds))] for v in (x, y))
        low, high = np.quantile((a[:, :, None] > b[:, None, :]).mean((1, 2)), (0.025, 0.975))
        held += [ours.low <= truth <= ours.high, low <= truth <= high]
    return truth, dict(zip(("score interval", "bootstrap"), held / repeats, strict=True))
