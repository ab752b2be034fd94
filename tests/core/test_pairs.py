"""Which responses are compared: golden pairs with ties, thresholds, ragged groups, refusals, one value per run."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from prefloop.core import pairs as p
from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.streams import Stream
from toys import make_batch, signal_rng, stack

F64 = torch.float64
NAN = math.nan
SCORES = [[1.0, 3.0, 3.0, -2.0], [0.5, -1.0, NAN, 0.25], [2.0, NAN, math.inf, NAN], [7.0, 7.0, 7.0, 7.0]]
THERE = [[True] * 4, [True, True, False, True], [True, False, False, False], [True] * 4]


def record(scores: list[list[float]] = SCORES, there: list[list[bool]] | None = THERE) -> Batch:
    r = torch.tensor(scores, dtype=F64)
    mask = torch.ones(*r.shape, 1, dtype=torch.bool)
    valid = None if there is None else torch.tensor(there)
    return Batch(torch.arange(len(scores)), mask.long(), mask, scores=r, valid=valid)


def listed(found: p.Pairs) -> list[list[tuple[int, int, float]]]:
    index, weight = found
    assert (index[weight == 0] == 0).all() and weight.dtype == F64
    rows = zip(index.tolist(), weight.tolist(), strict=True)
    return [[(*pair, v) for pair, v in zip(i, w, strict=True) if v] for i, w in rows]


def test_best_vs_worst() -> None:
    got = p.best_vs_worst(record())
    assert got[0].shape == (4, 1, 2)
    assert listed(got) == [[(1, 3, 1.0)], [(0, 1, 1.0)], [], []]


def test_best_vs_worst_threshold_is_exclusive() -> None:
    batch = record([[0.0, 1.0], [0.0, 1.5], [2.0, 0.0]], None)
    assert listed(p.best_vs_worst(batch, threshold=1.0)) == [[], [(1, 0, 1.0)], [(0, 1, 1.0)]]
    assert listed(p.best_vs_worst(batch)) == [[(1, 0, 1.0)], [(1, 0, 1.0)], [(0, 1, 1.0)]]


def test_all_pairs() -> None:
    got = p.all_pairs(record())
    assert got[0].shape == (4, 6, 2)
    want = []
    for scores, there in zip(SCORES, THERE, strict=True):
        row = []
        for i, j in combinations(range(4), 2):
            if there[i] and there[j] and scores[i] != scores[j]:
                row.append((i, j, 1.0) if scores[i] > scores[j] else (j, i, 1.0))
        want.append(row)
    assert listed(got) == want
    assert listed(p.all_pairs(record([[0.0, 1.0, 3.0]], None), threshold=1.0)) == [[(2, 0, 1.0), (2, 1, 1.0)]]


def test_all_pairs_of_two() -> None:
    assert listed(p.all_pairs(record([[1.0, 2.0]], None))) == [[(1, 0, 1.0)]]


def test_best_vs_rest_spreads_one_unit_of_weight() -> None:
    third = 1 / 3
    assert listed(p.best_vs_rest(record())) == [
        [(1, 2, third), (1, 0, third), (1, 3, third)],
        [(0, 3, 0.5), (0, 1, 0.5)],
        [],
        [(0, 1, third), (0, 2, third), (0, 3, third)],
    ]
    assert listed(p.best_vs_rest(record([[1.0, 2.0]], None))) == [[(1, 0, 1.0)]]
    assert p.best_vs_rest(record())[1].sum(-1).tolist() == pytest.approx([1.0, 1.0, 0.0, 1.0], abs=1e-15)


@pytest.mark.parametrize("part", [p.best_vs_worst, p.all_pairs, p.best_vs_rest])
def test_single_responses_are_refused(part: object) -> None:
    with pytest.raises(UserError, match="at least two responses"):
        part(record([[1.0], [2.0]], None))


def test_rejection_pairs_refuse_single_responses() -> None:
    with pytest.raises(UserError, match="at least two responses"):
        p.rejection_pairs(record([[1.0]], None), rng=signal_rng())


class Fixed(Stream):
    """A stream whose next uniform numbers are given."""

    def __init__(self, u: torch.Tensor) -> None:
        self.u = u

    def rand(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        assert shape == tuple(self.u.shape) and dtype == self.u.dtype
        return self.u


def accepted(scores: dict[int, float], beta: float, wanted: int, uniform: Callable[[int, int], float]) -> list[int]:
    """Algorithm 1 of arXiv:2309.06657, transcribed: candidates in the order in which they are given.

    Args:
        uniform: the number that candidate i draws in pass k.
    """
    candidates, found, k = dict(scores), list[int](), 0
    while len(found) < wanted and candidates:
        best, removed = max(candidates.values()), list[int]()
        for i, r in candidates.items():
            if uniform(k, i) >= math.exp((r - best) / beta):
                continue
            found.append(i)
            removed.append(i)
            if len(found) == wanted:
                break
        for i in removed:
            del candidates[i]
        k += 1
    return found


def labelled(found: list[int], scores: list[float]) -> list[tuple[int, int, float]]:
    """Consecutive accepted responses, the better one first; ties and a lonely one give no pair."""
    pairs = [found[i : i + 2] for i in range(0, len(found) - 1, 2)]
    return [(*sorted(pair, key=lambda i: -scores[i]), 1.0) for pair in pairs if scores[pair[0]] != scores[pair[1]]]


@pytest.mark.parametrize(("size", "wanted"), [(2, 2), (5, 2), (8, 4), (13, 6)])
@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_rejection_pairs_are_those_of_the_published_algorithm(size: int, wanted: int, beta: float) -> None:
    g = torch.Generator().manual_seed(size)
    scores = torch.randn(20, size, generator=g, dtype=F64).mul(2).round().div(2)  # with ties
    there = torch.rand(20, size, generator=g) < 0.8
    u = torch.rand(wanted + 1, 20, size, generator=g, dtype=F64)
    batch = record(torch.where(there, scores, NAN).tolist(), there.tolist())
    got = listed(p.rejection_pairs(batch, rng=Fixed(u), beta=beta))
    for row in range(20):
        order = [i for i in u[0, row].argsort().tolist() if there[row, i]]  # shuffled
        known = {i: float(scores[row, i]) for i in order}
        found = accepted(known, beta, wanted, lambda k, i: float(u[k + 1, row, i]))  # noqa: B023
        assert got[row] == labelled(found, scores[row].tolist())


def test_rejection_pairs_by_hand() -> None:
    # β = 0.5: response 1, the best, is accepted in the first pass and 0 is not, as 0.5 ≥ e^−2; nor is 2, as 0.1 ≥ e^−4.
    # In the second pass 0 is the best that is left, and 2 is accepted as well, as 0.1 < e^−2, but is behind 0
    u = torch.tensor([[[0.1, 0.9, 0.5]], [[0.5, 0.99, 0.1]], [[0.99, 0.0, 0.1]]], dtype=F64)
    assert listed(p.rejection_pairs(record([[1.0, 2.0, 0.0]], None), rng=Fixed(u))) == [[(1, 0, 1.0)]]
    # with the places of 0 and 2 exchanged, 2 is reached first
    u[0] = u[0].flip(-1)
    assert listed(p.rejection_pairs(record([[1.0, 2.0, 0.0]], None), rng=Fixed(u))) == [[(1, 2, 1.0)]]
    # an acceptance needs u below the probability: at 0 below e^−∞ = 0 there is none
    u = torch.tensor([[[0.1, 0.9, 0.5]], [[0.0, 0.5, 0.5]], [[0.0, 0.5, 0.5]]], dtype=F64)
    assert listed(p.rejection_pairs(record([[-1e9, 0.0, -9.0]], None), rng=Fixed(u))) == [[(1, 2, 1.0)]]


@pytest.mark.parametrize("garbage", [NAN, 5.0])
def test_rejection_pairs_ignore_absent_places(garbage: float) -> None:
    lonely = record([[1.0, garbage, garbage]], [[True, False, False]])
    assert listed(p.rejection_pairs(lonely, rng=signal_rng())) == [[]]
    two = record([[1.0, garbage, 2.0, garbage]], [[True, False, True, False]])
    assert listed(p.rejection_pairs(two, rng=signal_rng())) == [[(2, 0, 1.0)]]


def test_rejection_pairs_accept_as_often_as_the_published_algorithm() -> None:
    """Shares of runs that accept each of 8 responses, 4 at a time, β 0.5; softmax(r/β) without replacement differs."""
    scores, draws, rng = [-0.5 * i for i in range(8)], 4_000, random.Random(0)
    want, own = Counter[int](), list(range(8))
    for _ in range(draws):
        rng.shuffle(own)
        want.update(accepted({i: scores[i] for i in own}, 0.5, 4, lambda k, i: rng.random()))
    index, weight = p.rejection_pairs(record([scores] * draws, None), rng=signal_rng(5))
    assert (weight == 1).all()
    found = Counter(index.flatten().tolist())
    for i in range(8):
        share = want[i] / draws
        assert found[i] / draws == pytest.approx(share, abs=4 * math.sqrt(2 * share * (1 - share) / draws) + 1e-3), i
    assert found[2] / draws > 0.945  # 0.963; 0.915 without replacement


@pytest.mark.parametrize(("size", "count"), [(2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (12, 3)])
def test_rejection_pairs_accept_half_of_the_group(size: int, count: int) -> None:
    index, weight = p.rejection_pairs(make_batch(1, responses=size), rng=signal_rng())
    assert index.shape == (3, count, 2) and weight.shape == (3, count)
    for row in index.flatten(-2).tolist():
        assert len(set(row)) == 2 * count


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", ["best_vs_worst", "all_pairs", "best_vs_rest", "rejection_pairs"])
def test_stacked_runs_equal_each_alone(name: str, ragged: bool) -> None:
    part = getattr(p, name)
    alone = [make_batch(seed, ragged=ragged) for seed in (1, 2)]
    if ragged:
        alone = [replace(b, scores=torch.where(b.present, b.scores, NAN)) for b in alone]
    per_run = {"best_vs_rest": None, "rejection_pairs": "beta"}.get(name, "threshold")
    options = {per_run: torch.tensor([0.3, 2.5], dtype=F64)} if per_run else {}

    def call(batch: Batch, seed: int | list[int], options: dict[str, torch.Tensor]) -> p.Pairs:
        return part(batch, **options, **({"rng": signal_rng(seed)} if name == "rejection_pairs" else {}))

    index, weight = call(stack(alone), [3, 4], options)
    for run, batch in enumerate(alone):
        want = call(batch, 3 + run, {k: v[run] for k, v in options.items()})
        assert torch.equal(index[run], want[0]) and torch.equal(weight[run], want[1])


def test_returns_count_the_penalty() -> None:
    batch = replace(record([[1.0, 2.0]], None), penalty=torch.tensor([[[0.0], [-1.5]]], dtype=F64))
    assert listed(p.best_vs_worst(batch)) == [[(0, 1, 1.0)]]
