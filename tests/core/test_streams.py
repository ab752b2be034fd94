"""Named random streams: a function of name and seed, and stacked runs draw what each draws alone."""

from __future__ import annotations

import pytest
import torch

from prefloop.core.streams import STREAMS, streams


def test_seeds_are_the_hash_of_name_and_seed() -> None:
    """The first 63 bits of SHA-256, little-endian: recorded runs keep their random numbers."""
    seeds = {name: stream.generators[0].initial_seed() for name, stream in streams(0).items()}
    assert seeds["prompts"] == 4296256319858064405 and seeds["sampling"] == 6180817063420562335
    assert tuple(seeds) == STREAMS and len(set(seeds.values())) == len(STREAMS)


@pytest.mark.parametrize("seeds", [[7], [7, 8, 9]])
def test_stacked_runs_draw_what_each_draws_alone(seeds: list[int]) -> None:
    stacked, alone = streams(seeds)["signal"], [streams(seed)["signal"] for seed in seeds]
    assert torch.equal(stacked.rand(2, 3), torch.stack([one.rand(2, 3) for one in alone]))
    assert torch.equal(stacked.randn(4), torch.stack([one.randn(4) for one in alone]))
    assert torch.equal(stacked.epoch(6, 2), torch.stack([one.epoch(6, 2) for one in alone]))
    assert alone[0].rand(5).shape == (5,) and alone[0].rand(2, dtype=torch.float64).dtype == torch.float64


def test_an_epoch_is_an_order_that_needs_no_state() -> None:
    stream = streams(3)["shuffle"]
    first = stream.epoch(50, 0)
    assert sorted(first.tolist()) == list(range(50)) and not torch.equal(first, stream.epoch(50, 1))
    stream.rand(9)
    assert torch.equal(stream.epoch(50, 0), first)


def test_a_stream_continues_where_its_state_was_taken() -> None:
    stream = streams([1, 2])["sampling"]
    stream.rand(3)
    state = stream.state()
    want = stream.rand(3)
    other = streams([5, 6])["sampling"]
    other.restore(state)
    assert torch.equal(other.rand(3), want)
    with pytest.raises(ValueError):
        other.restore(state[:1])
