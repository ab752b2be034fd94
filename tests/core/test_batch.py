"""The record of the loop by hand: rows and places taken and put back, narrowed, joined."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from torch import Tensor

from prefloop.core.batch import (
    DATASET,
    Batch,
    MissingNeed,
    Signal,
    concatenate,
    label,
    narrow,
    pick,
    put,
    reads,
    take,
)
from toys import F64, make_batch, stack


def full(seed: int = 0, *, prompts: int = 3, tokens: int = 5, responses: int = 4) -> Batch:
    """A batch in which every field is set."""
    batch = make_batch(seed, prompts=prompts, responses=responses, tokens=tokens, ragged=True)
    penalty = torch.where(batch.mask, 0.1 * torch.arange(float(tokens), dtype=F64), 0.0)
    return replace(batch, penalty=penalty, source=torch.arange(prompts) + seed)


def same(a: Batch | Signal, b: Batch | Signal) -> None:
    for f in fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y, f.name


def test_records_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        full().scores = None  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Signal().weight = None  # type: ignore[misc]


def test_lengths_presence_and_returns_by_hand() -> None:
    mask = torch.tensor([[[True, True, False], [True, False, False]]])
    plain = Batch(torch.zeros(1), torch.zeros(1, 2, 3, dtype=torch.long), mask)
    assert plain.lengths.tolist() == [[2, 1]] and plain.present.tolist() == [[True, True]]
    bandit = replace(plain, responses=plain.responses[..., :1], mask=plain.mask[..., :1])
    assert bandit.present.tolist() == [[True, True]]
    empty = replace(plain, mask=torch.zeros_like(mask), valid=torch.tensor([[True, False]]))
    assert empty.present.tolist() == [[True, False]] and replace(empty, valid=None).present.all()
    with pytest.raises(MissingNeed, match=r"(?s)`scores`.*Batch.scores"):
        _ = plain.returns
    scored = replace(plain, scores=torch.tensor([[1.0, -2.0]]))
    assert scored.returns.tolist() == [[1.0, -2.0]]
    penalty = torch.tensor([[[0.5, 0.25, 0.0], [2.0, 0.0, 0.0]]])
    assert replace(scored, penalty=penalty).returns.tolist() == [[1.75, 0.0]]


def test_a_part_reads_nothing_that_it_does_not_name() -> None:
    @reads("scores", "z")
    def part() -> None: ...

    @reads(supervised=True, groups=True, sized=True)
    def other() -> None: ...

    marks = [(p.needs, p.supervised, p.groups, p.sized) for p in (part, other)]  # type: ignore[attr-defined]
    assert marks == [({"scores", "z"}, False, False, False), (frozenset(), True, True, True)]


def test_labels_are_the_sign_of_the_score_against_the_threshold() -> None:
    scores = torch.tensor([[0.4, 0.5, 0.6]], dtype=F64)
    assert label(scores, 0.5).tolist() == [[-1.0, -1.0, 1.0]] and label(scores, 0.5).dtype == F64


def test_rows_of_lists_tensors_and_stacked_tensors() -> None:
    x = torch.arange(12).view(3, 4)
    assert take(["a", "b", "c"], torch.tensor([2, 0])) == ["c", "a"]
    assert torch.equal(take(x, torch.tensor([2, 0])), x[[2, 0]])
    rows = torch.tensor([[1, 3], [0, 0], [3, 2]])
    assert take(x, rows).tolist() == [[1, 3], [4, 4], [11, 10]]
    assert take(x[..., None].expand(3, 4, 2), rows).tolist() == [
        [[1] * 2, [3] * 2],
        [[4] * 2] * 2,
        [[11] * 2, [10] * 2],
    ]


def test_rows_of_a_batch_take_every_field_but_what_belongs_to_the_run() -> None:
    batch, rows = full(), torch.tensor([2, 1])
    for f in fields(Batch):
        whole = getattr(batch, f.name)
        assert torch.equal(getattr(batch[rows], f.name), whole if f.name == "z" else whole[rows]), f.name
    assert batch[rows].source.tolist() == [2, 1]  # type: ignore[union-attr]
    stacked = stack([full(0), full(1)])
    chosen = stacked[torch.tensor([[0, 2], [1, 1]])]
    for run, mine in enumerate([full(0)[torch.tensor([0, 2])], full(1)[torch.tensor([1, 1])]]):
        assert torch.equal(chosen.scores[run], mine.scores) and torch.equal(chosen.responses[run], mine.responses)
        assert torch.equal(chosen.z[run], mine.z)
    signal = Signal(weight=torch.arange(6.0).view(3, 2), pairs=torch.arange(6).view(3, 1, 2))
    assert signal[rows].weight.tolist() == [[4.0, 5.0], [2.0, 3.0]]  # type: ignore[union-attr]
    assert signal[rows].pairs.tolist() == [[[4, 5]], [[2, 3]]]  # type: ignore[union-attr]


@pytest.mark.parametrize("rows", [torch.tensor([2, 0]), torch.tensor([[1, 3], [0, 2], [3, 2]])])
def test_put_is_the_inverse_of_take(rows: Tensor) -> None:
    for shape in ((3, 4), (3, 4, 2)):
        x = torch.arange(float(torch.Size(shape).numel())).view(shape)
        got = torch.zeros_like(x)
        put(got, rows, take(x, rows))
        assert torch.equal(take(got, rows), take(x, rows)) and int((got != 0).sum()) == int((take(x, rows) != 0).sum())


def test_places_of_scores_and_of_tokens() -> None:
    x, places = torch.arange(24).view(2, 3, 4), torch.tensor([[2, 0], [1, 1]])
    assert pick(x[..., 0], places).tolist() == [[8, 0], [16, 16]]
    assert torch.equal(pick(x, places), torch.stack([x[0, [2, 0]], x[1, [1, 1]]]))
    other = torch.stack([places, places.flip(0)])
    assert torch.equal(pick(torch.stack([x, x]), other), torch.stack([pick(x, each) for each in other]))
    assert torch.equal(pick(torch.stack([x, x])[..., 0], other), torch.stack([pick(x[..., 0], each) for each in other]))


# --------------------------------------------------------------------------------------------------------- narrowing


def test_a_narrowed_batch_holds_the_used_responses_in_their_order() -> None:
    batch = full(responses=4, prompts=2)
    used = torch.tensor([[False, True, False, True], [False, False, True, False]])
    weight = torch.arange(8.0).view(2, 4)
    pairs, pair_weight = torch.tensor([[[3, 1]], [[2, 0]]]), torch.tensor([[1.0], [0.0]])
    signal = Signal(weight, pairs, pair_weight, kl_weight=10 * weight)
    small, told = narrow(batch, signal, used)
    places = torch.tensor([[1, 3], [2, 0]])
    group = ("responses", "mask", "scores", "labels", "logp_behaviour", "logp_proximal", "logp_reference")
    for name in (*group, "values", "penalty"):
        assert torch.equal(getattr(small, name), pick(getattr(batch, name), places)), name
    for name in ("prompts", "source", "z"):
        assert torch.equal(getattr(small, name), getattr(batch, name)), name
    assert small.valid is not None and small.valid.tolist() == [[True, True], [True, False]]
    assert told.weight is not None and told.weight.tolist() == [[1.0, 3.0], [6.0, 4.0]]
    assert told.kl_weight is not None and torch.equal(told.kl_weight, 10 * told.weight)
    assert told.pairs is not None and told.pairs[0].tolist() == [[1, 0]] and told.pairs[1, 0, 0] == 0
    assert bool(((told.pairs >= 0) & (told.pairs < 2)).all())
    assert torch.equal(told.pair_weight, pair_weight)  # type: ignore[arg-type]


def test_narrowed_stacks_are_as_wide_as_their_widest_run() -> None:
    batches, pairs = [full(s, prompts=2) for s in (0, 1)], torch.tensor([[[3, 1]], [[2, 2]]])
    used = torch.tensor(
        [
            [[False, True, False, True], [False, False, True, False]],
            [[True, False, False, False], [False, True, False, False]],
        ]
    )
    signals = [Signal(b.scores, pairs[:1].expand(2, 1, 2), torch.ones(2, 1)) for b in batches]
    small, told = narrow(stack(batches), stack(signals), used)
    places = torch.tensor([[[1, 3], [2, 0]], [[0, 1], [1, 0]]])
    for run, batch in enumerate(batches):
        assert torch.equal(small.responses[run], pick(batch.responses, places[run]))
        assert torch.equal(small.scores[run], pick(batch.scores, places[run]))  # type: ignore[index,arg-type]
    assert small.present.tolist() == [[[True, True], [True, False]], [[True, False]] * 2]
    assert told.pairs is not None and told.pairs.tolist() == [[[[1, 0]], [[0, 0]]], [[[0, 0]]] * 2]


def test_many_responses_keep_their_order_when_narrowed() -> None:
    """A sort that is not stable shows above a few places."""
    used = torch.arange(512).view(1, -1) % 2 == 1
    batch = Batch(torch.zeros(1), torch.arange(512).view(1, -1, 1), torch.ones(1, 512, 1, dtype=torch.bool))
    small, _ = narrow(batch, Signal(), used)
    assert small.responses.flatten().tolist() == list(range(1, 512, 2))


def test_a_batch_is_as_it_was_where_a_group_uses_all_of_it() -> None:
    batch, signal = full(), Signal(weight=torch.ones(3, 4))
    used = torch.tensor([[True] * 4, [False] * 4, [False, True, False, False]])
    assert narrow(batch, signal, used) == (batch, signal)


def test_where_nothing_is_used_one_place_is_left_that_is_not_valid() -> None:
    pairs = torch.tensor([[[0, 3]]] * 3)
    small, told = narrow(
        full(), Signal(pairs=pairs, pair_weight=torch.zeros(3, 1)), torch.zeros(3, 4, dtype=torch.bool)
    )
    assert small.responses.shape == (3, 1, 5) and not small.present.any()
    assert told.pairs is not None and not told.pairs.any()
    assert narrow(full(), Signal(), torch.eye(3, 4, dtype=torch.bool))[0].responses.shape == (3, 1, 5)


# ----------------------------------------------------------------------------------------------------------- joining


def padded(x: Tensor, tokens: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, tokens - x.shape[-1]))


def test_joined_batches_are_their_rows_padded_to_the_longest() -> None:
    one, two = full(0, prompts=3, tokens=2), replace(full(1, prompts=2, tokens=5), z=full(0).z)
    per_token = ("responses", "mask", "logp_behaviour", "logp_proximal", "logp_reference", "values", "penalty")
    for first, second in ((one, two), (two, one)):
        joined = concatenate([first, second])
        for f in fields(Batch):
            a, b = getattr(first, f.name), getattr(second, f.name)
            if f.name in per_token:
                a, b = padded(a, 5), padded(b, 5)
            want = a if f.name == "z" else torch.cat([a, b])
            assert torch.equal(getattr(joined, f.name), want), f.name
    same(concatenate([one]), one)


def test_joined_stacks_are_joined_along_the_prompts() -> None:
    parts = [stack([full(s, prompts=n), full(s + 5, prompts=n)]) for s, n in ((0, 2), (1, 3))]
    joined = concatenate(parts)
    for run in range(2):
        alone = concatenate([replace(full(s + 5 * run, prompts=n), z=full(5 * run).z) for s, n in ((0, 2), (1, 3))])
        assert torch.equal(joined.scores[run], alone.scores)  # type: ignore[index,arg-type]
        assert torch.equal(joined.responses[run], alone.responses)


def test_prompts_of_any_kind_are_joined_and_never_padded() -> None:
    one, two = full(0, prompts=2, responses=2), full(1, prompts=1, responses=2, tokens=7)
    listed = concatenate([replace(one, prompts=["a", "b"]), replace(two, prompts=["c"], z=one.z)])
    assert listed.prompts == ["a", "b", "c"]
    ids = torch.arange(12).view(2, 2, 3)  # of the same leading shape as the responses
    joined = concatenate([replace(one, prompts=ids), replace(two, prompts=ids[:1], z=one.z)])
    assert torch.equal(joined.prompts, torch.cat([ids, ids[:1]]))


def test_batches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes"):
        concatenate([full(responses=2), full(responses=4)])
    for first, second in ((full(), replace(full(), scores=None)), (replace(full(), scores=None), full())):
        with pytest.raises(ValueError, match="`scores`"):
            concatenate([first, second])
    bare = concatenate([replace(full(), scores=None), replace(full(), scores=None)])
    assert bare.scores is None and bare.labels is not None


def test_the_source_of_a_dataset_is_no_version_of_the_policy() -> None:
    assert DATASET == -1
