"""Which responses are compared: golden pairs with ties, thresholds, ragged groups, refusals, one value per run."""

from __future__ import annotations

import math
from collections import Counter
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


def test_rejection_pairs_by_hand() -> None:
    # equal noise everywhere: the order is that of r/β, so the two best are accepted and labelled by score
    u = torch.full((1, 8), 0.3, dtype=F64)
    batch = record([[0.1, 0.8, 0.3, 0.7, 0.2, 0.6, 0.5, 0.4]], None)
    assert listed(p.rejection_pairs(batch, rng=Fixed(u))) == [[(1, 3, 1.0), (5, 6, 1.0)]]
    # Gumbel noise −log(−log u): 0.99 -> 4.60, 0.5 -> 0.37, 0.01 -> −1.53; with r/β = 2r the keys are
    # 4.60, 2.37, 0.47, 1.37, so responses 0 and 1 are accepted, and 1 wins by its score
    u = torch.tensor([[0.99, 0.5, 0.01, 0.5]], dtype=F64)
    batch = record([[0.0, 1.0, 1.0, 0.5]], None)
    assert listed(p.rejection_pairs(batch, rng=Fixed(u))) == [[(1, 0, 1.0)]]
    # a hot temperature lets the noise decide between 0 (key 4.60), 1 (0.47) and 3 (0.42)
    assert listed(p.rejection_pairs(batch, rng=Fixed(u), beta=10.0)) == [[(1, 0, 1.0)]]
    # a cold one lets the score decide: 1 (key 20.37) and 2 (18.47) tie in score, so no pair is left
    assert listed(p.rejection_pairs(batch, rng=Fixed(u), beta=0.05)) == [[]]


def test_rejection_pairs_survive_extreme_noise_and_absent_places() -> None:
    # u = 0 is the least noise, log(−log 1e-12) = 3.32, not −∞: a large score still wins over it
    u = torch.tensor([[0.0, 1e-12, 0.5, 1.0]], dtype=F64)
    batch = record([[9.0, 0.0, 1.0, 0.5]], None)
    # keys 18 − 3.32, −3.32, 2.37, 1 + 27.63: responses 3 and 0
    assert listed(p.rejection_pairs(batch, rng=Fixed(u))) == [[(0, 3, 1.0)]]
    for garbage in (NAN, 5.0):
        lonely = record([[1.0, garbage, garbage]], [[True, False, False]])
        assert listed(p.rejection_pairs(lonely, rng=signal_rng())) == [[]]
        two = record([[1.0, garbage, 2.0, garbage]], [[True, False, True, False]])
        assert listed(p.rejection_pairs(two, rng=signal_rng())) == [[(2, 0, 1.0)]]


def test_rejection_pairs_default_temperature_is_a_half() -> None:
    # noise 2.25, 0.37, 0.37: with 2r the keys are 2.25, 2.37, 2.27; with r alone response 0 would be accepted
    u = torch.tensor([[0.9, 0.5, 0.5]], dtype=F64)
    assert listed(p.rejection_pairs(record([[0.0, 1.0, 0.95]], None), rng=Fixed(u))) == [[(1, 2, 1.0)]]


def test_the_least_and_the_greatest_noise_are_as_stated() -> None:
    # −log(−log 1e-12) = −3.319 and −log(−log(1 − 1e-12)) = 27.631: scores beyond the gap decide, below it do not
    for r, best in ((30.945, True), (30.955, False)):
        u = torch.tensor([[0.0, 1.0, 1.0]], dtype=F64)
        batch = record([[r, 0.0, 0.01]], None)
        accepted = {i for pair in listed(p.rejection_pairs(batch, rng=Fixed(u), beta=1.0))[0] for i in pair[:2]}
        assert accepted == ({1, 2} if best else {0, 2})


@pytest.mark.parametrize(("size", "count"), [(2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (12, 3)])
def test_rejection_pairs_accept_half_of_the_group(size: int, count: int) -> None:
    index, weight = p.rejection_pairs(make_batch(1, responses=size), rng=signal_rng())
    assert index.shape == (3, count, 2) and weight.shape == (3, count)
    for row in index.flatten(-2).tolist():
        assert len(set(row)) == 2 * count


def test_rejection_pairs_follow_sequential_sampling_without_replacement() -> None:
    """The first two accepted responses are drawn like softmax(r/β) without replacement, by enumeration."""
    r, beta, draws = [0.3, -0.2, 0.9, 0.5], 0.7, 20_000
    z = [math.exp(v / beta) for v in r]
    want: Counter[tuple[int, int]] = Counter()
    for i in range(4):
        for j in range(4):
            if i != j:
                key = (i, j) if r[i] > r[j] else (j, i)
                want[key] += z[i] / sum(z) * z[j] / (sum(z) - z[i])  # type: ignore[assignment]
    index, _ = p.rejection_pairs(record([r] * draws, None), rng=signal_rng(5), beta=beta)
    found = Counter(map(tuple, index[:, 0].tolist()))
    for key, share in want.items():
        assert found[key] / draws == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / draws))


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
